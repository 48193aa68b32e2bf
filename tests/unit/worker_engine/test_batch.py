"""Batches of fixed size hold the same sequences as those of their own size."""

from dataclasses import replace

import torch

from tests.unit.worker_engine.fakes import GEOMETRY
from worker.adapters.residency import Residency
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
    plan, residency = decoding([3, 2])
    config = replace(CONFIG, max_graph_rows=64)
    late = Sequence(EngineRequest("late", tuple(range(1, 12)), 9), 7, 40)
    late.pages.extend([50, 51, 52])
    plan.sequences.append(late)
    plan.num_tokens.append(8)
    batch = BatchBuilder(config, residency, CPU).build(plan)
    assert batch.forward.size == BatchSize(64, 8, is_decode=False)
    assert batch.sampled == plan.sequences[:2], "the prompt goes on in the next step"
    assert batch.forward.attention.max_query_len is None
    assert batch.forward.attention.query_start.tolist() == [0, 1, 2, 10, 10, 10, 10, 10, 10]
    assert batch.forward.logit_rows.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert (batch.forward.attention.kv_slots[10:] == -1).all()


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
