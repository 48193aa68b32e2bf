"""Events and effects as lines that people read: scripted scenarios with what the director does, kept in testdata/.

A scenario is commands, each with its effects indented below; `python -m tests.sim.transcript` writes the effects anew.

    policy mode=fcfs max_attempts=2            settings of admission, clustering and dispatch, by name
    0.5 worker w0 window=2 adapters=a:pool     a status; `adapters` is a snapshot, `changes` are deltas; also
                                               labels=zone:a and tenants=t,u
    0.5 arrive r1 adapter=a tokens=4 max=8 deadline=1 priority=1 tenant=t
    0.5 cancel r1
    0.5 ack w0 r1 r2   /   0.5 reject w0 r1   /   0.5 reject-for-good w0 r1
    0.5 tokens w0 r1=3 r2=1.                   so many tokens; `.` ends with STOP, `!` with CANCELLED, `?` fails
    0.5 lost w0   /   0.5 lease w0 live=0   /   0.5 drain w0 on=1   /   0.5 tick
"""

import random
import sys
from dataclasses import fields, replace
from pathlib import Path

from control_plane.core.director import Director
from control_plane.core.policy import AdmissionMode, Policy
from control_plane.core.types import (
    Accepted,
    AdapterRef,
    BatchAcked,
    DrainChanged,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    FinishReason,
    LeaseChanged,
    PolicyChanged,
    Request,
    RequestArrived,
    RequestCancelled,
    ResidencyTier,
    SendBatch,
    SendCancel,
    SequenceOutput,
    TenantAmount,
    TenantsCharged,
    TenantTotalsRead,
    Tick,
    TokensProduced,
    WorkerFailure,
    WorkerLost,
    WorkerReported,
    WorkerStatus,
)

TESTDATA = Path(__file__).parent / "testdata"
INDENT = " " * 4


def describe(effect: Effect) -> str:
    """One line for an effect."""
    match effect:
        case Accepted(request_id):
            return f"accepted {request_id}"
        case Emitted(output):
            return f"emitted {output.request_id} {_numbers(output.token_ids)}"
        case Finished(request_id, reason, usage, timings):
            first = "-" if timings.first_token_s is None else f"{timings.first_token_s:.3f}"
            return f"finished {request_id} {reason.value} {usage.num_output_tokens} tokens, first after {first} s"
        case Failed(request_id, error):
            retry = "" if error.retry_after_s is None else f" (retry after {error.retry_after_s:.3f} s)"
            return f"failed {request_id} {error.status.name} {error.reason}: {error.message}{retry}"
        case SendCancel(worker_id, request_id):
            return f"{worker_id} <- cancel {request_id}"
        case TenantsCharged(number, counters):
            return f"charged {number}: " + " ".join(f"{each.tenant}={each.amount:g}" for each in counters)
        case SendBatch(worker_id, requests, prefetch):
            parts = [
                each.request.request_id + (f"+{len(each.resumed_token_ids)}" if each.resumed_token_ids else "")
                for each in requests
            ]
            hints = f" prefetch {' '.join(each.adapter_id for each in prefetch)}" if prefetch else ""
            return f"{worker_id} <- {' '.join(parts) or 'nothing'}{hints}"


def name_event(event: Event) -> str:
    """A short line for an event."""
    match event:
        case RequestArrived(request):
            return f"arrive {request.request_id} {len(request.prompt_token_ids)} {request.max_tokens}"
        case RequestCancelled(request_id):
            return f"cancel {request_id}"
        case WorkerReported(status):
            return f"worker {status.worker_id} {len(status.residency)}"
        case BatchAcked(worker_id, accepted, rejected):
            return f"ack {worker_id} {accepted} {[each.request_id for each in rejected]}"
        case TokensProduced(worker_id, outputs, failures):
            done = [f"{each.request_id}={_numbers(each.token_ids)}{each.finish_reason}" for each in outputs]
            return f"tokens {worker_id} {done} {[each.request_id for each in failures]}"
        case WorkerLost(worker_id) | LeaseChanged(worker_id) | DrainChanged(worker_id):
            return f"{type(event).__name__} {worker_id}"
        case _:
            return type(event).__name__


def _numbers(token_ids: tuple[int, ...]) -> str:
    return ",".join(map(str, token_ids)) or "-"


class Script:
    """A director at the hands of a scenario's commands. Worker w's tokens for a request count up from 1."""

    def __init__(self) -> None:
        self._policy = Policy("scripted")
        self._director: Director | None = None
        self._requests: dict[str, int] = {}
        self._status: dict[str, WorkerStatus] = {}

    def run(self, command: str) -> list[str]:
        """Carry out one command; returns the effects' lines."""
        words = command.split()
        if words[0] == "policy":
            self._policy = _policy(self._policy, _options(words[1:]))
            if self._director is None:
                return []
            event: Event = PolicyChanged(self._policy)
            return [describe(effect) for effect in self._director.on_event(event, 0.0)]
        if self._director is None:
            self._director = Director(self._policy, random.Random(0))
        effects = self._director.on_event(self._event(words[1], words[2:]), float(words[0]))
        for effect in effects:
            if isinstance(effect, Emitted):
                self._requests[effect.output.request_id] += len(effect.output.token_ids)
        return [describe(effect) for effect in effects]

    def _event(self, verb: str, words: list[str]) -> Event:
        match verb:
            case "arrive":
                return RequestArrived(self._request(words[0], _options(words[1:])))
            case "cancel":
                return RequestCancelled(words[0])
            case "worker":
                return WorkerReported(self._report(words[0], _options(words[1:])))
            case "lost":
                return WorkerLost(words[0])
            case "lease":
                return LeaseChanged(words[0], is_live=_options(words[1:])["live"] == "1")
            case "drain":
                return DrainChanged(words[0], is_draining=_options(words[1:])["on"] == "1")
            case "ack":
                return BatchAcked(words[0], accepted_request_ids=tuple(words[1:]))
            case "reject" | "reject-for-good":
                return BatchAcked(
                    words[0], rejected=tuple(_failure(each, retryable=verb == "reject") for each in words[1:])
                )
            case "tokens":
                return self._tokens(words[0], words[1:])
            case "totals":
                amounts = [each.split("=") for each in words[1:]]
                totals = tuple(TenantAmount(name, float(amount)) for name, amount in amounts)
                return TenantTotalsRead(int(words[0]), totals)
            case "tick":
                return Tick()
        raise ValueError(verb)

    def _request(self, request_id: str, options: dict[str, str]) -> Request:
        self._requests.setdefault(request_id, 0)
        name = options.get("adapter")
        size = int(options.get("size", 1000))
        return Request(
            request_id=request_id,
            prompt_token_ids=tuple(range(int(options.get("tokens", 4)))),
            max_tokens=int(options.get("max", 100)),
            first_token_deadline_s=float(options.get("deadline", 0)),
            adapter=AdapterRef(name, f"sha256:{name}", int(options.get("rank", 8)), size) if name else None,
            priority=int(options.get("priority", 0)),
            tenant=options.get("tenant", "default"),
        )

    def _report(self, worker_id: str, options: dict[str, str]) -> WorkerStatus:
        status = self._status.get(worker_id, WorkerStatus(worker_id, "base", 1, total_pages=100, page_size_bytes=1000))
        residency = options.get("adapters", options.get("changes", ""))
        pairs = [each.split(":") for each in residency.split(",") if each]
        status = replace(
            status,
            request_window=int(options.get("window", status.request_window)),
            num_prefill_tokens=int(options.get("prefilled", status.num_prefill_tokens)),
            pending_prefill_tokens=int(options.get("pending", status.pending_prefill_tokens)),
            labels=_labels(options["labels"]) if "labels" in options else status.labels,
            tenants=tuple(options["tenants"].split(",")) if "tenants" in options else status.tenants,
            residency=tuple((f"sha256:{name}", ResidencyTier(tier)) for name, tier in pairs),
            is_residency_snapshot="adapters" in options,
        )
        self._status[worker_id] = status
        return status

    def _tokens(self, worker_id: str, words: list[str]) -> TokensProduced:
        outputs, failures = [], []
        ends = {".": FinishReason.STOP, "!": FinishReason.CANCELLED}
        for word in words:
            request_id, _, count = word.partition("=")
            if count == "?":
                failures.append(_failure(request_id, retryable=True))
                continue
            num_tokens, first = int(count.rstrip(".!") or 0), self._requests[request_id] + 1
            token_ids = tuple(range(first, first + num_tokens))
            outputs.append(SequenceOutput(request_id, token_ids, "", finish_reason=ends.get(count[-1])))
        return TokensProduced(worker_id, tuple(outputs), tuple(failures))


def play(text: str) -> str:
    """A scenario's text with the effects as they are now."""
    script, out = Script(), []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            out.append(line)
        elif not line.startswith(INDENT):
            out += [line, *(INDENT + effect for effect in script.run(line))]
    return "\n".join(out) + "\n"


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, _, value in (each.partition(":") for each in text.split(",")))


def _failure(request_id: str, *, retryable: bool) -> WorkerFailure:
    reason = "ADAPTER_FETCH_FAILED" if retryable else "ADAPTER_CORRUPT"
    return WorkerFailure(
        request_id, 14 if retryable else 9, reason, "the adapter is not to be had", retryable=retryable
    )


def _policy(policy: Policy, options: dict[str, str]) -> Policy:
    for name, text in options.items():
        section = next(
            each
            for each in ("admission", "clustering", "dispatch", "fairness")
            if name in {f.name for f in fields(getattr(policy, each))}
        )
        settings = getattr(policy, section)
        old = getattr(settings, name)
        value = AdmissionMode(text) if isinstance(old, AdmissionMode) else type(old)(text)
        policy = replace(policy, **{section: replace(settings, **{name: value})})
    return policy


if __name__ == "__main__":
    for path in sorted(TESTDATA.glob("*.txt")):
        path.write_text(play(path.read_text()))
        sys.stdout.write(f"wrote {path.name}\n")
