"""The metrics in Prometheus' text format, on an HTTP port of their own; deploy/METRICS.md lists them."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.core.snapshot import DirectorSnapshot
from control_plane.observation.metrics import MetricsSnapshot, ScopeSnapshot
from control_plane.observation.scope import Histogram
from control_plane.types import PolicyVersion

# A scrape waits no longer for the loop that serves requests.
SNAPSHOT_TIMEOUT_S = 5.0
# Workers with figures of their own: the first by id.
MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that the exposition shows, as it was at one moment."""

    metrics: MetricsSnapshot
    director: DirectorSnapshot
    policy: PolicyVersion
    num_output_tokens: int
    num_chunks: int
    is_state_reachable: bool


class Exposition(Collector):
    """Reads on the loop that owns what is read, and renders on the scrape's thread."""

    def __init__(self, read: Callable[[], Reading], loop: asyncio.AbstractEventLoop) -> None:
        self._read = read
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Nothing is read before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        reading = asyncio.run_coroutine_threadsafe(self._take(), self._loop).result(SNAPSHOT_TIMEOUT_S)
        return families(reading)

    async def _take(self) -> Reading:
        return self._read()


class MetricsServer:
    """Serves an exposition, and what Python knows of the process, on `/metrics`."""

    def __init__(self, exposition: Exposition, address: str) -> None:
        """Listens. Raises OSError."""
        registry = CollectorRegistry()
        registry.register(exposition)
        ProcessCollector(registry=registry)
        host, _, port = address.rpartition(":")
        self._server: WSGIServer
        self._thread: Thread
        self._server, self._thread = start_http_server(int(port), host, registry)
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Takes no more scrapes."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def families(reading: Reading) -> Iterator[Metric]:
    """Every metric family of a control plane."""
    for scope in reading.metrics.scopes:
        yield from _scope(scope)
    yield from _requests(reading)
    yield from _fleet(reading.director)
    yield from _admission(reading)
    policy = reading.policy
    info = GaugeMetricFamily(
        "multitude_policy_info", "1, with the policy in force", labels=("name", "version", "digest", "source")
    )
    info.add_metric((policy.name, str(policy.version), policy.digest, policy.source.value), 1.0)
    yield info
    yield _gauge(
        "multitude_policy_refused",
        "1 while a newer policy is refused, else 0",
        float(bool(policy.pending_error)),
    )
    yield _gauge("multitude_redis_up", "1 while Redis answers, else 0", float(reading.is_state_reachable))


def _scope(scope: ScopeSnapshot) -> Iterator[Metric]:
    kind, prefix = scope.kind, f"multitude_{scope.kind}"
    requests = CounterMetricFamily(f"{prefix}_requests", f"Requests that ended, by {kind}", labels=(kind, "outcome"))
    errors = CounterMetricFamily(f"{prefix}_errors", f"Requests that got an error, by {kind}", labels=(kind, "reason"))
    placements = CounterMetricFamily(
        f"{prefix}_placements", f"Times that requests were sent to workers, by {kind}", labels=(kind, "reason")
    )
    tokens = CounterMetricFamily(f"{prefix}_tokens", f"Tokens of requests that ended, by {kind}", labels=(kind, "kind"))
    queue = HistogramMetricFamily(f"{prefix}_queue_seconds", "From arrival to the first worker", labels=(kind,))
    first = HistogramMetricFamily(f"{prefix}_first_token_seconds", "From arrival to the first token", labels=(kind,))
    later = HistogramMetricFamily(
        f"{prefix}_output_token_seconds", "Mean time between a request's tokens", labels=(kind,)
    )
    queued = GaugeMetricFamily(f"{prefix}_queued", f"Requests that wait, by {kind}", labels=(kind,))
    age = GaugeMetricFamily(f"{prefix}_queue_age_seconds", "Age of the oldest request that waits", labels=(kind,))
    for label, measures in sorted(scope.measures.items()):
        for outcome, count in measures.outcomes.items():
            requests.add_metric((label, outcome.value), count)
        for reason, count in measures.errors.items():
            errors.add_metric((label, reason), count)
        for placement, count in measures.placements.items():
            placements.add_metric((label, placement.value), count)
        tokens.add_metric((label, "prompt"), measures.num_prompt_tokens)
        tokens.add_metric((label, "output"), measures.num_output_tokens)
        for family, histogram in (
            (queue, measures.queue),
            (first, measures.first_token),
            (later, measures.output_token),
        ):
            family.add_metric((label,), _buckets(histogram), histogram.total)
    for label, waiting in sorted(scope.waiting.items()):
        queued.add_metric((label,), waiting.num_queued)
        age.add_metric((label,), waiting.oldest_s)
    yield from (requests, errors, placements, tokens, queue, first, later, queued, age)


def _requests(reading: Reading) -> Iterator[Metric]:
    errors = CounterMetricFamily(
        "multitude_errors", "Requests refused, dropped or failed, by reason", labels=("outcome", "reason")
    )
    for (outcome, reason), count in sorted(reading.metrics.errors.items(), key=lambda item: str(item[0])):
        errors.add_metric((outcome.value, reason), count)
    yield errors
    placements = CounterMetricFamily(
        "multitude_placements", "Requests sent to workers, by what they found there", labels=("reason",)
    )
    for placement, count in sorted(reading.metrics.placements.items(), key=lambda item: item[0].value):
        placements.add_metric((placement.value,), count)
    yield placements
    yield _counter("multitude_relayed_tokens", "Output tokens that came from workers", reading.num_output_tokens)
    yield _counter("multitude_relayed_chunks", "Messages with tokens that were sent to clients", reading.num_chunks)


def _fleet(director: DirectorSnapshot) -> Iterator[Metric]:
    yield _gauge("multitude_queued", "Requests that wait", director.num_queued)
    yield _gauge("multitude_parked", "Of these, requests that no worker could take yet", director.num_parked)
    yield _gauge("multitude_dispatched", "Requests on workers", director.num_dispatched)
    yield _gauge("multitude_workers", "Workers attached", len(director.workers))
    yield _counter("multitude_faulty_reports", "Workers' reports that could not be", director.num_faulty_reports)
    names = {
        "places": "Requests that the worker may hold",
        "dispatched": "Requests of this control plane on the worker",
        "running": "Sequences that run on the worker",
        "preemptions": "Sequences preempted since the worker started",
        "output_tokens": "Output tokens since the worker started",
    }
    families = {
        name: GaugeMetricFamily(f"multitude_worker_{name}", text, labels=("worker",)) for name, text in names.items()
    }
    pages = GaugeMetricFamily("multitude_worker_pages", "Pages of the worker's pool, by use", labels=("worker", "use"))
    step = GaugeMetricFamily("multitude_worker_step_seconds", "Time of an engine step, lately", labels=("worker",))
    for worker in director.workers[:MAX_WORKERS]:
        status, label = worker.status, (worker.status.worker_id,)
        families["places"].add_metric(label, max(0, status.request_window))
        families["dispatched"].add_metric(label, worker.num_in_flight)
        families["running"].add_metric(label, status.num_running)
        families["preemptions"].add_metric(label, status.num_preemptions)
        families["output_tokens"].add_metric(label, status.num_output_tokens)
        step.add_metric(label, status.step_ms / 1000)
        for use, count in (("kv", status.kv_pages), ("adapter", status.adapter_pages), ("free", status.free_pages)):
            pages.add_metric((*label, use), count)
    yield from (*families.values(), step, pages)


def _admission(reading: Reading) -> Iterator[Metric]:
    predictor = reading.director.predictor
    yield _counter("multitude_predictions", "First tokens that came and had been predicted", predictor.num_samples)
    yield _gauge("multitude_prediction_error_seconds", "Mean absolute error, lately", predictor.mean_absolute_error_s)
    yield _gauge("multitude_prediction_bias_seconds", "Mean error; above 0: later than predicted", predictor.bias_s)
    yield _gauge("multitude_prediction_correction", "By what predicted waits are multiplied", predictor.correction)
    labelled = {label for scope in reading.metrics.scopes if scope.kind == "tenant" for label in scope.measures}
    counters = GaugeMetricFamily(
        "multitude_tenant_service", "Virtual token counters over all control planes", labels=("tenant",)
    )
    for counter in reading.director.counters:
        if counter.tenant in labelled:
            counters.add_metric((counter.tenant,), counter.amount)
    yield counters


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text)
    family.add_metric((), value)
    return family


def _counter(name: str, help_text: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text)
    family.add_metric((), value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
