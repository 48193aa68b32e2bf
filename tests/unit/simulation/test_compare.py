import base64
import zlib
from dataclasses import replace

import pytest

from control_plane.core.policy import AdmissionMode, AdmissionSettings, Policy
from control_plane.operations import simulation
from control_plane.simulation.compare import compare
from control_plane.simulation.service import FleetModel, ServiceModel
from control_plane.simulation.trace import GammaArrivals, Trace, TraceError, TraceRequest, read_trace

FCFS = Policy("fcfs", admission=AdmissionSettings(mode=AdmissionMode.FCFS))
ARRIVALS = GammaArrivals(20.0, 2.0, 10.0, 50, bytes_per_rank=1_000_000, first_token_deadline_s=2.0)


def test_a_lone_request_costs_what_the_model_says() -> None:
    service = ServiceModel(
        step_s=0.1,
        sequence_s=0.01,
        context_s=0.001,
        rank_s=0.0001,
        prefill_s=0.5,
        token_s=0.02,
        fetch_s=1.0,
        fetch_s_per_gb=2.0,
        load_s_per_gb=0.3,
    )
    trace = Trace("one", (TraceRequest(0.0, 10, 3, "a", rank=8, size_bytes=10**9),))
    (outcome,) = compare(trace, [FCFS], FleetModel(service=service)).outcomes
    fate = outcome.fates[0]
    first_token_s = (1.0 + 2.0) + 0.3 + (0.5 + 10 * 0.02)
    assert fate.first_token_s == pytest.approx(first_token_s)
    # Two more tokens, with 11 and then 12 tokens of context.
    steps_s = 2 * (0.1 + 0.01 + 8 * 0.0001) + (11 + 12) * 0.001
    assert fate.finished_s == pytest.approx(first_token_s + steps_s)
    assert (outcome.adapter_loads, outcome.adapter_fetches) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_one_seed_gives_one_outcome_whatever_fails(seed: int) -> None:
    trace = ARRIVALS.draw("drawn", seed)
    fleet = FleetModel(3, ServiceModel(pool_tokens=20_000), latency_s=0.002, losses=4, loss_s=1.0)
    first, second = (compare(trace, [FCFS, replace(FCFS, name="again")], fleet, seed=seed) for _ in range(2))
    assert first == second
    assert [each.transcript for each in first.outcomes] == [first.outcomes[0].transcript] * 2
    assert all(each.num_finished + sum(each.errors.values()) == 200 for each in first.outcomes)


def test_the_pool_bounds_what_runs_together() -> None:
    requests = tuple(TraceRequest(0.0, 10, 90) for _ in range(8))
    durations = [
        compare(Trace("t", requests), [FCFS], FleetModel(1, ServiceModel(pool_tokens=room, context_s=0.0))).outcomes[0]
        for room in (128, 224, 10_000)
    ]
    assert [each.num_finished for each in durations] == [8, 8, 8]
    one, two, all_together = (each.duration_s for each in durations)
    # They do not start together, so the last pair overlaps a little less than the others.
    assert one == pytest.approx(2 * two, rel=0.1)
    assert two == pytest.approx(4 * all_together, rel=0.2)


ONE_AT_A_TIME = ServiceModel(window=0, step_s=0.1, sequence_s=0.0, context_s=0.0, prefill_s=1.0, token_s=0.0)


def test_a_worker_that_takes_what_starts_forms_whole_batches() -> None:
    """The first is alone, for it came first; after its prompt and ten steps, the other five start as one batch."""
    service = replace(ONE_AT_A_TIME, steps_between=10)
    requests = (TraceRequest(0.0, 10, 50), *(TraceRequest(0.5, 10, 5) for _ in range(5)))
    (outcome,) = compare(Trace("t", requests), [FCFS], FleetModel(1, service)).outcomes
    first, *others = (fate.first_token_s for fate in outcome.fates)
    assert first == pytest.approx(1.0)
    assert others == [pytest.approx(0.5 + 10 * 0.1 + 1.0)] * 5


@pytest.mark.parametrize(("is_kept", "num_loads"), [(True, 1), (False, 2)])
def test_an_adapter_stays_in_the_pool_if_the_worker_keeps_it(is_kept: bool, num_loads: int) -> None:
    service = replace(ONE_AT_A_TIME, keeps_idle_adapters=is_kept, is_host_warm=True)
    requests = tuple(TraceRequest(at_s, 10, 5, "a", size_bytes=1000) for at_s in (0.0, 5.0))
    (outcome,) = compare(Trace("t", requests), [FCFS], FleetModel(1, service)).outcomes
    assert outcome.adapter_loads == num_loads


def test_the_generator_draws_the_papers_trace() -> None:
    """The first arrivals of the S-LoRA paper's generator at its seed, computed with its own three lines of numpy."""
    trace = GammaArrivals(2.0, 1.0, 300.0, 200, ranks=(64, 32, 16, 8)).draw("paper", 42)
    assert len(trace.requests) == 600
    first = trace.requests[0]
    assert (first.adapter_id, first.rank) == ("adapter-74", 16)
    assert trace.requests[-1].at_s == pytest.approx(301.0, abs=0.1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: this is not JSON"),
        ("[]", "line 1: must be a JSON object"),
        ('{"at_s": 1, "prompt_tokens": 5}', "line 1: output_tokens is missing"),
        ('{"at_s": 1, "prompt_tokens": 5, "output_tokens": 5, "adapter": "a"}', "line 1: unknown field 'adapter'"),
        ('{"at_s": 1, "prompt_tokens": 5.5, "output_tokens": 5}', "line 1: prompt_tokens must be a whole number"),
        ('{"at_s": true, "prompt_tokens": 5, "output_tokens": 5}', "line 1: at_s must be a number"),
        ('{"at_s": NaN, "prompt_tokens": 5, "output_tokens": 5}', "line 1: at_s must be at least 0, not nan"),
        ('{"at_s": 1, "prompt_tokens": 0, "output_tokens": 5}', "line 1: prompt_tokens and output_tokens"),
        ("", "the trace is empty"),
    ],
)
def test_a_faulty_trace_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace("faulty", [line])


def test_a_trace_is_read_in_order_of_arrival() -> None:
    late = '{"at_s": 2, "prompt_tokens": 5, "output_tokens": 6, "adapter_id": "a", "tenant": "t"}'
    trace = read_trace("two", [late, "", late.replace("2", "1")])
    assert [each.at_s for each in trace.requests] == [1, 2]
    assert trace.requests[0] == TraceRequest(1, 5, 6, "a", tenant="t")


def test_a_trace_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "MAX_TRACE_BYTES", 3 << 20)
    compressed = base64.b64encode(zlib.compress(b"\n" * (4 << 20))).decode()
    error = simulation.simulate({"trace": "", "compressed_trace": compressed})["error"]
    assert (error["reason"], error["field"]) == ("TRACE_INVALID", "trace")
    assert "more than 3 MiB" in error["message"]
