"""Paged attention and KV writes against the formula, in poisoned pages."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import naive, paged_attention
from kernels.paging import naive as naive_paging
from kernels.paging import write_kv
from tests.kernels.attention_cases import Case, Heads, draw_case
from tests.kernels.tolerances import assert_close


def check(case: Case, heads: Heads, block_size: int, window: int | None) -> None:
    shape = {"num_kv_heads": heads.num_kv_heads, "block_size": block_size, "scale": heads.head_dim**-0.5}
    expected = naive.paged_attention(case.query, case.pages, case.batch, **shape, window=window)
    actual = paged_attention(case.query, case.pages, case.batch, **shape, window=window)
    assert actual.shape == case.query.shape
    assert actual.dtype == case.query.dtype
    assert_close(actual, expected)


sequences = st.integers(1, 40).flatmap(lambda context: st.tuples(st.just(context), st.integers(1, min(context, 9))))


@settings(max_examples=60, deadline=None)
@given(
    seqs=st.lists(sequences, min_size=1, max_size=12),
    heads=st.sampled_from([Heads(4, 4, 8), Heads(4, 2, 8), Heads(6, 1, 16)]),
    block_size=st.sampled_from([1, 3, 4, 16]),
    window=st.none() | st.integers(1, 45),
    seed=st.integers(0, 2**16),
)
def test_follows_the_formula(
    seqs: list[tuple[int, int]], heads: Heads, block_size: int, window: int | None, seed: int
) -> None:
    check(draw_case(seqs, heads, block_size, seed), heads, block_size, window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("num_seqs", [1, 2, 3, 7, 64, 133])
@pytest.mark.parametrize("kind", ["decodes", "chunks", "mixed", "one_long"])
def test_batches(kind: str, num_seqs: int, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
    rng = random.Random(f"{kind} {num_seqs}")
    seqs = []
    for seq in range(num_seqs):
        context = 500 if kind == "one_long" and seq == 0 else rng.randint(1, 60)
        rows = rng.randint(1, min(context, 12)) if kind == "chunks" or (kind == "mixed" and seq % 2) else 1
        seqs.append((context, rows))
    heads = Heads(4, 2, 16)
    check(draw_case(seqs, heads, 16, seed=num_seqs, dtype=dtype, device=device), heads, 16, window)


def test_groups_are_bounded_and_alike() -> None:
    """Gathered tokens follow the live ones: within a group no context is less than half of the longest."""
    from kernels.attention.plan import GROUP_TOKENS, plan_of

    seqs = [(context, 1) for context in [2000, 1, 1, 700, 5, 80, 90, 100, 33, 16, 17, 4000] + [64] * 50]
    case = draw_case(seqs, Heads(1, 1, 2), 16, seed=1)
    plan = plan_of(case.batch, 16, None, torch.float32)
    assert sum(group.stop - group.start for group in plan.decodes) == len(seqs)
    for group in plan.decodes:
        blocks = len(group.key_blocks) // (group.stop - group.start)
        assert group.stop - group.start == 1 or len(group.key_blocks) * 16 <= GROUP_TOKENS
        assert all(-(-seqs[row][0] // 16) * 2 >= blocks for row in plan.decode_rows[group.start : group.stop].tolist())


def test_a_window_gathers_only_what_it_sees() -> None:
    from kernels.attention.plan import plan_of

    plan = plan_of(draw_case([(1000, 1), (1000, 8)], Heads(1, 1, 2), 16, seed=1).batch, 16, 32, torch.float32)
    assert len(plan.decodes[0].key_blocks) <= 3
    assert len(plan.chunks[0].key_blocks) <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("num_rows", [0, 1, 7, 133])
def test_write_kv(num_rows: int, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(num_rows)
    block_size, num_pages = 4, 40
    slots = torch.randperm(num_pages * block_size)[:num_rows].to(device)
    key, value = torch.randn(2, num_rows, 3, 5).to(dtype).to(device)
    pages = torch.full((num_pages, 2 * block_size * 3 * 5), torch.nan, dtype=dtype, device=device)
    expected = pages.clone()
    naive_paging.write_kv(expected, key, value, slots, block_size)
    write_kv(pages, key, value, slots, block_size)
    assert torch.equal(pages.view(torch.uint8), expected.view(torch.uint8))
