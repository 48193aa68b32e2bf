"""Batches of fixed size hold the same sequences as those of their own size."""

from dataclasses import replace

import pytest
import torch

from tests.unit.worker_engine.fakes import GEOMETRY, adapter
from worker.adapters.residency import Residency
from worker.engine import batch as module
from worker.engine.batch import BatchBuilder
from worker.engine.config import EngineConfig
from worker.engine.scheduler import Plan, Scheduler
from worker.engine.sequence import Sequence
from worker.memory.pool import PagePool
from worker.types import BatchSize, EngineRequest

CONFIG = EngineConfig(context_length=40, block_size=4, max_step_tokens=64, max_running=8, max_graph_rows=6)
CPU = torch.device("cpu")


def decoding(prompt_lens: list[int]) -> tuple[Plan, Residency]:
    """Sequences that are about to decode their second token."""
    pool = PagePool(60)
    residency = Residency(pool, GEOMETRY)
    scheduler = Scheduler(pool, residency, CONFIG)
    for index, length in enumerate(prompt_lens):
        scheduler.add(Sequence(EngineRequest(str(index), tuple(range(1, length + 1)), 9), index, 40))
    for sequence in scheduler.schedule().sequences:
        sequence.num_computed = sequence.num_tokens
        sequence.append(99)
    return scheduler.schedule(), residency


def rows(sizes: tuple[BatchSize, ...]) -> list[int]:
    return [size.num_rows for size in sizes]


def test_sizes_end_with_the_largest_batch() -> None:
    assert rows(CONFIG.decode_sizes) == [1, 2, 4, 6]
    assert rows(CONFIG.chunk_sizes) == [6]
    roomy = EngineConfig(context_length=9, max_running=8, max_step_tokens=150, max_graph_rows=512)
    assert rows(roomy.decode_sizes) == [1, 2, 4, 8]
    assert rows(roomy.chunk_sizes) == [64, 128, 150]
    assert all(size.num_seqs == 8 for size in roomy.chunk_sizes)
    crowded = replace(roomy, max_running=100)
    assert [size.num_seqs for size in crowded.chunk_sizes] == [64, 100, 100]
    assert EngineConfig(context_length=9).decode_sizes == EngineConfig(context_length=9).chunk_sizes == ()


def test_a_batch_is_filled_up_with_sequences_that_own_nothing() -> None:
    plan, residency = decoding([3, 8, 5])
    plain = BatchBuilder(replace(CONFIG, max_graph_rows=0), residency, CPU).build(plan)
    fixed = BatchBuilder(CONFIG, residency, CPU).build(plan)
    assert (plain.forward.size, fixed.forward.size) == (None, BatchSize(4, 4, is_decode=True))
    assert fixed.sampled == plain.sampled == plan.sequences
    for name in ("token_ids", "positions", "logit_rows"):
        assert torch.equal(getattr(fixed.forward, name)[:3], getattr(plain.forward, name))
    ours, theirs = fixed.forward.attention, plain.forward.attention
    assert torch.equal(ours.query_start, torch.tensor([0, 1, 2, 3, 3], dtype=torch.int32))
    assert torch.equal(ours.context_lens, torch.tensor([4, 9, 6, 0], dtype=torch.int32))
    assert torch.equal(ours.kv_slots, torch.cat((theirs.kv_slots, torch.tensor([-1]))))
    assert ours.block_table.shape == (4, 10), "as many blocks as the longest sequence may have"
    for held, pages in zip(ours.block_table, (s.pages for s in plan.sequences), strict=False):
        assert held[: len(pages)].tolist() == list(pages)


def test_a_block_table_lies_where_the_last_did_and_tells_the_present_pages() -> None:
    long, residency = decoding([3, 21, 5])
    builder = BatchBuilder(CONFIG, residency, CPU)
    before = builder.build(long).forward.attention.block_table
    short, _ = decoding([2, 8, 9])
    after = builder.build(short).forward.attention.block_table
    assert (after.data_ptr(), after.shape, after.stride()) == (before.data_ptr(), before.shape, before.stride())
    for held, sequence in zip(after, short.sequences, strict=False):
        assert held[: len(sequence.pages)].tolist() == list(sequence.pages)


def test_a_batch_with_a_prompt_has_room_for_every_sequence() -> None:
    plan, residency = with_a_prompt([3, 2], 8)
    config = replace(CONFIG, max_graph_rows=64)
    batch = BatchBuilder(config, residency, CPU).build(plan)
    assert batch.forward.size == BatchSize(64, 8, is_decode=False)
    assert batch.sampled == plan.sequences[:2], "the prompt goes on in the next step"
    assert batch.forward.attention.max_query_len is None
    assert batch.forward.attention.query_start.tolist() == [0, 1, 2, 10, 10, 10, 10, 10, 10]
    assert batch.forward.logit_rows.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert (batch.forward.attention.kv_slots[10:] == -1).all()


def with_a_prompt(prompt_lens: list[int], num_tokens: int) -> tuple[Plan, Residency]:
    """Sequences that decode, and after them a prompt of 11 tokens of which some are computed."""
    plan, residency = decoding(prompt_lens)
    late = Sequence(EngineRequest("late", tuple(range(1, 12)), 9), 7, 40)
    late.pages.extend([50, 51, 52])
    plan.sequences.append(late)
    plan.num_tokens.append(num_tokens)
    return plan, residency


@pytest.mark.parametrize(("num_tokens", "logit_rows"), [(8, [0, 1]), (11, [0, 1, 12])])
def test_a_batch_with_a_prompt_is_narrow(
    num_tokens: int, logit_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, residency = with_a_prompt([3, 2], num_tokens)
    plain = BatchBuilder(replace(CONFIG, max_graph_rows=0), residency, CPU).build(plan).forward
    assert plain.is_narrow
    assert plain.logit_rows.tolist() == logit_rows
    assert (plain.lora, plain.logit_lora) == (None, None)
    builder = BatchBuilder(replace(CONFIG, max_graph_rows=64), residency, CPU)
    assert not builder.build(plan).forward.is_narrow, "56 rows are not worth it"
    monkeypatch.setattr(module, "_LEAST_LEFT_OUT", 56)
    fixed = builder.build(plan).forward
    assert fixed.is_narrow
    assert fixed.logit_rows.tolist() == logit_rows + [0] * (8 - len(logit_rows))


@pytest.mark.parametrize("max_graph_rows", [0, 64])
def test_a_narrow_batch_tells_whose_its_logits_are(max_graph_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it are a prompt in part, a whole one and a decode; of the last adapter only a prompt in part."""
    monkeypatch.setattr(module, "_LEAST_LEFT_OUT", 1)
    residency = Residency(PagePool(60), GEOMETRY)
    first, second, third = live = [adapter(marker) for marker in (1, 2, 3)]
    for hosted in live:
        residency.acquire(hosted)
    plan = Plan([], [])
    for index, (uses, num_prompt, num_tokens) in enumerate(
        [(None, 9, 4), (None, 3, 3), (first, 5, 2), (second, 2, 2), (second, 1, 1), (third, 7, 6)]
    ):
        request = EngineRequest(str(index), (7,) * num_prompt, 9, adapter=uses)
        plan.sequences.append(Sequence(request, index, 40))
        plan.sequences[-1].pages.extend(range(3 * index, 3 * index + 3))
        plan.num_tokens.append(num_tokens)
    batch = BatchBuilder(replace(CONFIG, max_graph_rows=max_graph_rows), residency, CPU).build(plan)
    forward, whole, logits = batch.forward, batch.forward.lora, batch.forward.logit_lora
    assert forward.is_narrow
    assert batch.sampled == [plan.sequences[index] for index in (1, 3, 4)]
    assert forward.logit_rows.tolist()[:3] == [6, 10, 11]
    assert whole.row_start.tolist()[:4] == [7, 9, 12, 18]
    assert logits.row_start.tolist()[:4] == [1, 1, 3, 3]
    assert set(logits.row_start.tolist()[4:]) <= {3}, "who fills the batch up owns no logits"
    assert logits.slots is whole.slots
    assert logits.is_decode
    assert not whole.is_decode


def test_batches_whose_logits_are_all_wanted_are_not_narrow() -> None:
    plan, residency = decoding([3, 8, 5])
    for max_graph_rows in (0, 64):
        config = replace(CONFIG, max_graph_rows=max_graph_rows)
        assert not BatchBuilder(config, residency, CPU).build(plan).forward.is_narrow


def test_a_batch_of_which_no_logits_are_wanted_is_narrow() -> None:
    plan, residency = with_a_prompt([3], 8)
    plan.sequences[:-1], plan.num_tokens[:-1] = [], []
    batch = BatchBuilder(replace(CONFIG, max_graph_rows=0), residency, CPU).build(plan).forward
    assert (batch.is_narrow, batch.logit_rows.tolist()) == (True, [])


def test_batches_that_are_too_large_keep_their_size() -> None:
    plan, residency = decoding([3] * 7)
    assert BatchBuilder(CONFIG, residency, CPU).build(plan).forward.size is None


def test_nobodys_batches_own_no_row() -> None:
    _, residency = decoding([3])
    builder = BatchBuilder(CONFIG, residency, CPU)
    expected = [(rows, modules) for rows in (6, 6, 4, 2, 1) for modules in (None, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3})]
    for batch, (num_rows, modules) in zip(builder.nobodys(), expected, strict=True):
        assert batch.size.num_rows == num_rows
        assert batch.token_ids.shape == (num_rows,)
        assert not batch.attention.query_start.any()
        assert (batch.attention.kv_slots == -1).all()
        assert (None if batch.lora is None else batch.lora.modules) == modules
        if batch.lora is not None:
            assert batch.lora.slots.shape == (batch.size.num_seqs,)
            assert not batch.lora.row_start.any()
