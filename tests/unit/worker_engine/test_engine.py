"""The engine around a model that can be computed by hand."""

from dataclasses import astuple, replace

import pytest
import torch

from tests.unit.worker_engine.fakes import BROKEN, GEOMETRY, VOCAB, Harness, adapter, expected_tokens
from worker.engine.config import EngineConfig
from worker.memory.pool import PageKind
from worker.memory.storage import page_size_bytes
from worker.types import EngineRequest, EngineStats, FinishReason, PoolResidency, SamplingParams, StepTimes

GREEDY = SamplingParams(temperature=0.0)
CONFIG = EngineConfig(context_length=64, block_size=4, max_step_tokens=16, max_running=8)
RED, BLUE = adapter(1, num_pages=2), adapter(2, num_pages=3)


def request(name: str, prompt: int = 5, max_tokens: int = 12, **fields: object) -> EngineRequest:
    ids = tuple((hash_of(name) + 5 * i) % VOCAB for i in range(prompt))
    return replace(EngineRequest(name, ids, max_tokens, GREEDY), **fields)


def hash_of(name: str) -> int:
    return sum(map(ord, name))


def check(harness: Harness, requests: list[EngineRequest]) -> None:
    for sent in requests:
        tokens, reason = expected_tokens(sent, harness.config.context_length)
        assert harness.tokens.get(sent.request_id, []) == tokens
        assert harness.endings[sent.request_id] == [reason]


OVERLAP = pytest.mark.parametrize("overlap", [False, True])


@OVERLAP
def test_a_mixed_batch_gives_each_its_own_tokens(overlap: bool) -> None:
    harness = Harness(replace(CONFIG, overlap=overlap), num_pages=100)
    requests = [request(f"r{i}", 3 + 7 * (i % 3), adapter=(None, RED, BLUE)[i % 3]) for i in range(12)]
    harness.run(requests)
    check(harness, requests)
    assert harness.engine.step().stats.num_prefill_tokens == sum(len(r.prompt_token_ids) for r in requests)


@OVERLAP
def test_preemption_gives_the_same_tokens(overlap: bool) -> None:
    requests = [request(f"r{i}", 6, 20, adapter=(None, RED)[i % 2]) for i in range(8)]
    roomy, tight = (Harness(replace(CONFIG, overlap=overlap), num_pages) for num_pages in (100, 14))
    roomy.run(requests)
    tight.run(requests)
    assert tight.engine.step().stats.num_preemptions > 2
    assert roomy.engine.step().stats.num_preemptions == 0
    assert roomy.tokens == tight.tokens
    check(tight, requests)


@OVERLAP
def test_preemption_and_company_change_no_seeded_draw(overlap: bool) -> None:
    params = SamplingParams(temperature=2.0, top_p=0.95, frequency_penalty=0.5, repetition_penalty=1.2)
    requests = [request(f"r{i}", 6, 20, sampling=replace(params, seed=i), adapter=(None, RED)[i % 2]) for i in range(8)]
    tight = Harness(replace(CONFIG, overlap=overlap), num_pages=14)
    tight.run(requests)
    assert tight.engine.step().stats.num_preemptions > 2
    for sent in requests:
        alone = Harness(CONFIG, num_pages=100)
        alone.run([sent])
        assert alone.tokens[sent.request_id] == tight.tokens[sent.request_id]


@pytest.mark.parametrize("num_resumed", [1, 7, 19])
def test_a_resumed_request_goes_on_as_if_it_had_never_stopped(num_resumed: int) -> None:
    params = SamplingParams(temperature=1.5, presence_penalty=1.0, repetition_penalty=1.3, seed=-5)
    whole = request("whole", 6, 20, sampling=params, adapter=RED)
    first = Harness(CONFIG, num_pages=100)
    first.run([whole])
    resumed = replace(whole, resumed_token_ids=tuple(first.tokens["whole"][:num_resumed]))
    second = Harness(CONFIG, num_pages=100)
    second.run([resumed])
    assert second.tokens["whole"] == first.tokens["whole"][num_resumed:]
    assert second.endings["whole"] == [FinishReason.LENGTH]


@OVERLAP
def test_a_stop_token_ends_the_output_and_is_not_part_of_it(overlap: bool) -> None:
    plain = request("plain")
    tokens, _ = expected_tokens(plain, 64)
    stopped = replace(plain, request_id="stopped", stop_token_ids=frozenset({tokens[4]}))
    harness = Harness(replace(CONFIG, overlap=overlap), num_pages=100)
    harness.run([plain, stopped])
    assert harness.tokens["stopped"] == tokens[: tokens.index(tokens[4])]
    assert harness.endings["stopped"] == [FinishReason.STOP]


@OVERLAP
def test_the_context_ends_a_sequence(overlap: bool) -> None:
    sent = request("long", 60, max_tokens=50)
    harness = Harness(replace(CONFIG, overlap=overlap), num_pages=100)
    harness.run([sent])
    assert len(harness.tokens["long"]) == 4
    assert harness.endings["long"] == [FinishReason.LENGTH]


@OVERLAP
@pytest.mark.parametrize("num_steps", [0, 1, 3, 6])
def test_cancelling_frees_pages_before_the_next_step(num_steps: int, overlap: bool) -> None:
    harness = Harness(replace(CONFIG, overlap=overlap), num_pages=100)
    victim, other = request("victim", 20, adapter=RED), request("other", 3)
    for sent in (other, victim):
        harness.engine.add(sent)
    for _ in range(num_steps):
        harness.step()
    assert harness.pool.kv_pages >= (5 if num_steps > 0 else 0)
    harness.engine.cancel("victim")
    assert harness.pool.kv_pages == len(harness.engine._sequences["other"].pages)
    harness.engine.cancel("victim")
    harness.run()
    assert harness.endings["victim"] == [FinishReason.CANCELLED]
    check(harness, [other])
    harness.engine.cancel("other")
    assert not harness.engine.has_work, "cancelling what has ended does nothing"


def test_the_step_in_flight_is_not_waited_for() -> None:
    harness = Harness(replace(CONFIG, overlap=True), num_pages=100)
    harness.engine.add(request("only", max_tokens=3))
    told = [[token for output in harness.step().outputs for token in output.token_ids] for _ in range(4)]
    tokens, _ = expected_tokens(request("only", max_tokens=3), 64)
    assert told == [[], *([token] for token in tokens)]
    assert harness.model.rows_per_step == [5, 1, 1], "no token is computed past the last"


def test_a_stop_costs_one_token_in_vain_at_most() -> None:
    tokens, _ = expected_tokens(request("plain"), 64)
    stopped = request("plain", stop_token_ids=frozenset({tokens[2]}))
    plain, ahead = (Harness(replace(CONFIG, overlap=overlap), num_pages=100) for overlap in (False, True))
    plain.run([stopped])
    ahead.run([stopped])
    assert ahead.tokens == plain.tokens
    assert ahead.model.rows_per_step == [*plain.model.rows_per_step, 1]


def test_a_token_in_flight_survives_preemption() -> None:
    requests = [request(f"r{i}", 4, 24, adapter=(None, RED)[i % 2]) for i in range(6)]
    harness = Harness(replace(CONFIG, overlap=True), num_pages=12)
    harness.run(requests)
    assert harness.engine.step().stats.num_preemptions > 2
    check(harness, requests)


def test_cancelling_the_only_request_is_told_by_the_next_step() -> None:
    harness = Harness(CONFIG, num_pages=100)
    harness.engine.add(request("only"))
    harness.engine.cancel("only")
    assert harness.engine.has_work
    (output,) = harness.step().outputs
    assert (output.request_id, output.finish_reason) == ("only", FinishReason.CANCELLED)
    assert not harness.engine.has_work


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request("bad", prompt=0), "PROMPT_EMPTY"),
        (request("bad", prompt=64), "PROMPT_TOO_LONG"),
        (request("bad", prompt=60, max_tokens=9, resumed_token_ids=(1, 2, 3, 4)), "PROMPT_TOO_LONG"),
        (request("bad", max_tokens=0), "MAX_TOKENS_OUT_OF_RANGE"),
        (request("bad", max_tokens=2, resumed_token_ids=(1, 2)), "MAX_TOKENS_OUT_OF_RANGE"),
        (request("bad", prompt=30, max_tokens=30, adapter=adapter(3, num_pages=6)), "POOL_TOO_SMALL"),
    ],
)
def test_what_cannot_run_fails_at_once_and_harms_nobody(bad: EngineRequest, reason: str) -> None:
    harness = Harness(CONFIG, num_pages=20)
    good = request("good")
    harness.run([good, bad])
    check(harness, [good])
    assert harness.endings["bad"] == [reason]


@OVERLAP
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_logits_that_are_no_distribution_fail_their_request_alone(overlap: bool, temperature: float) -> None:
    harness = Harness(replace(CONFIG, overlap=overlap), num_pages=100)
    params = SamplingParams(temperature=temperature, repetition_penalty=1.2)
    broken = [
        request("greedy", adapter=adapter(BROKEN)),
        request("penalised", adapter=adapter(BROKEN), sampling=params),
        request("told", adapter=adapter(BROKEN), logprob_count=2),
    ]
    others = [request(f"r{i}", adapter=(None, RED)[i % 2]) for i in range(4)]
    harness.run([*others[:2], *broken, *others[2:]])
    check(harness, others)
    for sent in broken:
        assert harness.endings[sent.request_id] == ["LOGITS_NOT_FINITE"]
        assert harness.tokens.get(sent.request_id, []) == []
    assert harness.pool.kv_pages == 0


def test_an_adapter_of_a_larger_rank_than_was_made_room_for_is_refused() -> None:
    harness = Harness(replace(CONFIG, max_rank=8), num_pages=100)
    fits, large = request("fits", adapter=RED), request("large", adapter=BLUE)  # of ranks 8 and 12
    harness.run([fits, large])
    check(harness, [fits])
    assert harness.endings["large"] == ["ADAPTER_RANK_TOO_LARGE"]


def test_waiting_beyond_the_bound_is_a_retryable_failure() -> None:
    harness = Harness(replace(CONFIG, max_waiting=2), num_pages=20)
    for name in "abc":
        harness.engine.add(request(name))
    (failure,) = harness.step().failures
    assert (failure.request_id, failure.reason, failure.retryable) == ("c", "WAITING_QUEUE_FULL", True)


def test_residency_is_told_as_it_changes() -> None:
    harness = Harness(CONFIG, num_pages=8)
    harness.run([request("one", adapter=RED)])
    harness.run([request("two", prompt=12, max_tokens=8, adapter=BLUE)])
    assert harness.residency_changes == [
        PoolResidency(RED.digest, resident=True),
        PoolResidency(BLUE.digest, resident=True),
        PoolResidency(RED.digest, resident=False),
    ]


def test_nothing_is_kept_of_adapters_that_left() -> None:
    harness = Harness(CONFIG, num_pages=8)
    for marker in range(1, 30):
        harness.run([request(f"r{marker}", adapter=adapter(marker, num_pages=2))])
    assert len(harness.engine._batches._lora._entries) <= 4


def test_stats_add_up() -> None:
    harness = Harness(CONFIG, num_pages=50)
    for index in range(10):
        harness.engine.add(request(f"r{index}", 10, adapter=RED))
    stats = harness.step().stats
    assert stats.total_pages == stats.free_pages + stats.kv_pages + stats.adapter_pages == 50
    assert (stats.num_running, stats.num_waiting) == (2, 8)
    assert stats.num_prefill_tokens == 16
    assert stats.pending_prefill_tokens == 4 + 80
    assert (stats.num_sequences, stats.num_rows, stats.num_prefill_rows) == (2, 16, 16)
    assert (stats.num_resident_adapters, stats.num_loads, stats.num_loading_adapters) == (1, 1, 1)
    assert stats.loaded_bytes == 2 * page_size_bytes(GEOMETRY, torch.float32)
    later = harness.step().stats
    assert (later.num_loads, later.num_loading_adapters) == (1, 0)
    assert (later.num_sequences, later.num_rows, later.num_prefill_rows) == (4, 16, 15)
    assert later.num_prefill_tokens == 31


def test_the_parts_of_a_step_are_all_of_its_time() -> None:
    harness = Harness(CONFIG, num_pages=50, clock=map(float, range(1000)).__next__)
    harness.engine.add(request("r"))
    for _ in range(3):
        stats = harness.step().stats
        parts = astuple(stats.times)
        assert all(part > 0 for part in parts)
        # Before the last look at the clock no part is counted.
        assert stats.step_ms == sum(parts) + 1000


def test_warming_up_leaves_no_trace() -> None:
    harness, cold = Harness(CONFIG, num_pages=50), Harness(CONFIG, num_pages=50)
    harness.engine.warm_up(RED)
    requests = [request(f"r{i}", adapter=(None, RED)[i % 2]) for i in range(4)]
    for sent in requests:
        harness.engine.add(sent)
        cold.engine.add(sent)
    while cold.engine.has_work:
        warm_result, cold_result = harness.step(), cold.step()
        assert replace(warm_result, stats=EngineStats()) == replace(cold_result, stats=EngineStats())
        assert replace(warm_result.stats, step_ms=0, times=StepTimes()) == replace(
            cold_result.stats, step_ms=0, times=StepTimes()
        )
    check(harness, requests)


def test_a_leak_is_found_when_the_engine_goes_idle() -> None:
    harness = Harness(CONFIG, num_pages=50)
    harness.engine.add(request("r", max_tokens=1))
    harness.pool.allocate(1, PageKind.KV)
    with pytest.raises(AssertionError, match="KV of no sequence"):
        harness.engine.step()
