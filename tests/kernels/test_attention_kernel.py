"""The Triton kernels of paged attention: on a GPU where there is one, else in Triton's interpreter."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from kernels.attention import AttentionBatch, naive, paged_attention
from kernels.attention.kernel import decode as decode_kernel
from kernels.attention.kernel import hopper as hopper_kernel
from kernels.attention.kernel import merge as merge_kernel
from kernels.attention.kernel import paged_attention as kernel
from tests.kernels.attention_cases import Case, Heads, draw_case
from tests.kernels.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BORDERS = [1, 15, 16, 17, 127, 128, 129, 1000]
GROUPS = [Heads(4, 4, 16), Heads(8, 2, 32), Heads(8, 1, 16)]
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]


def shape(heads: Heads, block_size: int, window: int | None = None) -> dict[str, Any]:
    return {
        "num_kv_heads": heads.num_kv_heads,
        "block_size": block_size,
        "scale": heads.head_dim**-0.5,
        "window": window,
    }


def expected(case: Case, heads: Heads, block_size: int, window: int | None = None) -> Tensor:
    batch = AttentionBatch(
        query_start=case.batch.query_start.cpu(),
        context_lens=case.batch.context_lens.cpu(),
        block_table=case.batch.block_table.cpu(),
        kv_slots=case.batch.kv_slots.cpu(),
    )
    return naive.paged_attention(case.query.cpu(), case.pages.cpu(), batch, **shape(heads, block_size, window))


def check(case: Case, heads: Heads, block_size: int = 16, window: int | None = None) -> Tensor:
    """Compares the rows that sequences own, and gives them."""
    owned = int(case.batch.query_start[-1])
    before = case.pages.view(torch.uint8).clone()
    actual = kernel(case.query, case.pages, case.batch, **shape(heads, block_size, window))
    assert actual.shape == case.query.shape
    assert actual.dtype == case.query.dtype
    assert_close(actual[:owned].cpu(), expected(case, heads, block_size, window)[:owned])
    assert torch.equal(case.pages.view(torch.uint8), before)
    return actual[:owned]


def draw_lengths(kind: str) -> list[tuple[int, int]]:
    """Contexts around the borders of pages, tiles and splits; chunks that begin at 0, and within a context."""
    decodes = [(context, 1) for context in BORDERS]
    chunks = [(context, rows) for context in BORDERS[1:7] for rows in (2, context)] + [(127, 33), (200, 100)]
    if kind == "decodes":
        return decodes
    if kind == "chunks":
        return chunks
    mixed = [*decodes[:7], *chunks[::3], (1000, 5)]
    random.Random(1).shuffle(mixed)
    return mixed


@pytest.mark.parametrize(
    ("heads", "window"),
    [*((heads, None) for heads in GROUPS), *((GROUPS[1], window) for window in (1, 20, 300))],
    ids=["group1", "group4", "group8", "window1", "window20", "window300"],
)
@pytest.mark.parametrize("kind", ["decodes", "chunks", "mixed"])
def test_batches(kind: str, heads: Heads, window: int | None) -> None:
    check(draw_case(draw_lengths(kind), heads, 16, seed=1, device=DEVICE), heads, 16, window)


@pytest.mark.parametrize("window", [pytest.param(window, marks=ON_GPU) for window in (None, 1, 20, 300)])
@pytest.mark.parametrize("heads", [Heads(4, 4, 128), Heads(8, 2, 128), Heads(6, 1, 64)], ids=repr)
@pytest.mark.parametrize("kind", ["decodes", "chunks", "mixed"])
def test_batches_in_half_precision(kind: str, heads: Heads, window: int | None) -> None:
    case = draw_case(draw_lengths(kind), heads, 16, seed=1, dtype=torch.bfloat16, device=DEVICE, unused_rows=3)
    check(case, heads, 16, window)


@pytest.mark.parametrize("window", [pytest.param(window, marks=ON_GPU) for window in (None, 150)])
def test_programs_take_several_tiles_in_turn(window: int | None) -> None:
    """More tiles than any GPU has processors, of all lengths, and decodes between them."""
    heads = Heads(8, 8, 128)
    seqs = [(context, rows) for context in (130, 257, 400) for rows in (1, 2, 100, 129)] * 8
    check(draw_case(seqs, heads, 16, seed=4, dtype=torch.bfloat16, device=DEVICE), heads, 16, window)


# The interpreter takes bfloat16 for integers in products.
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=ON_GPU)], ids=["fp16", "bf16"])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
def test_half_precision(head_dim: int, dtype: torch.dtype) -> None:
    heads = Heads(6, 2, head_dim)
    seqs = [(300, 1), (17, 1), (200, 60), (40, 40)]
    check(draw_case(seqs, heads, 32, seed=head_dim, dtype=dtype, device=DEVICE), heads, 32)


sequences = st.integers(0, 40).flatmap(
    lambda context: st.tuples(st.just(context), st.integers(min(context, 1), min(context, 9)))
)


@settings(max_examples=25, deadline=None)
@given(
    seqs=st.lists(
        st.integers(0, 40).flatmap(
            lambda context: st.tuples(st.just(context), st.integers(min(context, 1), min(context, 9)))
        ),
        min_size=1,
        max_size=8,
    ).filter(any),
    heads=st.sampled_from([Heads(4, 4, 8), Heads(4, 2, 8), Heads(6, 1, 24)]),
    block_size=st.sampled_from([1, 3, 4, 16]),
    window=st.none() | st.integers(1, 45),
    unused_rows=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_follows_the_formula(
    seqs: list[tuple[int, int]], heads: Heads, block_size: int, window: int | None, unused_rows: int, seed: int
) -> None:
    case = draw_case(seqs, heads, block_size, seed, device=DEVICE, unused_rows=unused_rows)
    check(case, heads, block_size, window)


def test_places_without_rows_and_rows_without_sequence_cost_nothing() -> None:
    heads = Heads(4, 2, 16)
    live = draw_case([(300, 1), (40, 9), (1000, 1)], heads, 16, seed=1, device=DEVICE)
    padded = draw_case([(300, 1), (40, 9), (1000, 1)] + [(0, 0)] * 170, heads, 16, 1, device=DEVICE, unused_rows=130)
    assert torch.equal(check(live, heads), check(padded, heads))


@pytest.mark.parametrize("long_splits", [False, True])
@pytest.mark.parametrize(
    ("heads", "dtype"),
    [(Heads(8, 2, 16), torch.float32), pytest.param(Heads(8, 2, 128), torch.bfloat16, marks=ON_GPU)],
    ids=["fp32", "bf16"],
)
def test_a_row_does_not_depend_on_the_batch(
    heads: Heads, dtype: torch.dtype, long_splits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same bits again, alone, in another order, in another table width, and on another number of programs."""
    if long_splits:
        monkeypatch.setattr(merge_kernel, "SEQUENCE_SPLITS", 2 * heads.num_kv_heads)
    case = draw_case([(1000, 1), (600, 37), (17, 1), (300, 2), (513, 1)], heads, 16, 3, dtype, DEVICE)
    together = check(case, heads)
    assert torch.equal(together, check(case, heads))
    monkeypatch.setattr(decode_kernel, "INTERPRETED_PROGRAMS", 7)
    monkeypatch.setattr(decode_kernel, "PROGRAMS_PER_SM", 1)
    monkeypatch.setattr(hopper_kernel, "DECODE_PROGRAMS_PER_SM", 1)
    monkeypatch.setattr(merge_kernel, "_most_programs", lambda device: 5)
    assert torch.equal(together, check(case, heads))
    starts = case.batch.query_start.tolist()
    for seq in range(5):
        rows = slice(starts[seq], starts[seq + 1])
        alone = AttentionBatch(
            query_start=torch.tensor([0, rows.stop - rows.start], dtype=torch.int32, device=DEVICE),
            context_lens=case.batch.context_lens[seq : seq + 1],
            block_table=pad(case.batch.block_table[seq : seq + 1], (0, 70 * seq), value=-1),
            kv_slots=case.batch.kv_slots[rows],
        )
        assert torch.equal(check(Case(case.pages, case.query[rows], alone), heads), together[rows])


@pytest.mark.parametrize(
    ("heads", "dtype"),
    [(Heads(4, 2, 16), torch.float32), pytest.param(Heads(8, 2, 128), torch.bfloat16, marks=ON_GPU)],
    ids=["fp32", "bf16"],
)
@pytest.mark.parametrize(("context", "window"), [(1024, None), (2048, 961), (2047, 961), (1024, 1024), (1535, 512)])
def test_tables_may_hold_no_more_than_a_row_sees(
    context: int, window: int | None, heads: Heads, dtype: torch.dtype
) -> None:
    """There is room for every split of a row that has as many as its table or its window lets it have."""
    case = draw_case([(context, 1), (3, 1), (context, 1)], heads, 16, 1, dtype, DEVICE, max_blocks=-(-context // 16))
    check(case, heads, 16, window)


@pytest.mark.parametrize("programs", [pytest.param(number, marks=ON_GPU) for number in (0, 1, 2)])
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("heads", [Heads(8, 2, 128), Heads(6, 6, 64)], ids=repr)
def test_programs_take_several_splits(
    heads: Heads, window: int | None, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a GPU takes at once, of all lengths, some of which own no row to decode.

    With 0 there are fewer programs than KV heads, and one team takes all.
    """
    monkeypatch.setattr(hopper_kernel, "DECODE_PROGRAMS_PER_SM", programs)
    lengths = [(1 + 131 * place % 2000, 1) for place in range(300)]
    lengths[::7] = [(40, 3)] * len(lengths[::7])
    check(draw_case(lengths, heads, 16, 1, torch.bfloat16, DEVICE), heads, 16, window)


def test_a_query_may_be_a_slice_of_wider_rows() -> None:
    heads = Heads(4, 2, 16)
    case = draw_case([(300, 1), (40, 9)], heads, 16, seed=1, device=DEVICE)
    wide = torch.full((case.query.shape[0], 8, 16), torch.nan, device=DEVICE)
    wide[:, 2:6] = case.query
    check(replace(case, query=wide[:, 2:6]), heads)


def test_no_page_outside_the_pool_is_read() -> None:
    """A table that lies about a page gives wrong numbers, but of the pool."""
    heads = Heads(2, 2, 16)
    case = draw_case([(20, 1), (20, 6)], heads, 16, seed=1, device=DEVICE)
    guarded = torch.full((3 * len(case.pages), case.pages.shape[1]), torch.nan, device=DEVICE)
    inside = guarded[len(case.pages) : 2 * len(case.pages)]
    inside[:] = torch.randn(inside.shape)
    lying, clamped = case.batch.block_table.clone(), case.batch.block_table.clone()
    lying[0, 0], lying[1, 0], lying[1, 1] = len(inside), -1, len(inside) + 1
    clamped[0, 0] = clamped[1, 0] = clamped[1, 1] = len(inside) - 1
    outputs = [
        kernel(case.query, inside, replace(case.batch, block_table=table, derived={}), **shape(heads, 16))
        for table in (lying, clamped)
    ]
    assert outputs[0].isfinite().all()
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("heads", "dtype"),
    [(Heads(4, 2, 16), torch.float32), pytest.param(Heads(8, 2, 128), torch.bfloat16, marks=ON_GPU)],
    ids=["fp32", "bf16"],
)
def test_no_page_outside_the_table_is_read(heads: Heads, dtype: torch.dtype) -> None:
    """A context that its table cannot hold is as long as the table."""
    case = draw_case([(640, 1), (640, 6), (20, 1)], heads, 16, 1, dtype, DEVICE, max_blocks=40)
    outputs = [
        kernel(case.query, case.pages, replace(case.batch, context_lens=lens, derived={}), **shape(heads, 16))
        for lens in (case.batch.context_lens, torch.tensor([10**6, 641, 20], dtype=torch.int32, device=DEVICE))
    ]
    assert torch.equal(*outputs)


GOOD = {"num_kv_heads": 2, "block_size": 16, "scale": 0.25, "window": None}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("query", lambda c: {"query": c.query[0]}),
        ("query", lambda c: {"query": c.query.transpose(1, 2)}),
        ("query", lambda c: {"query": c.query.int()}),
        ("pages", lambda c: {"pages": c.pages[:, 1:]}),
        ("pages", lambda c: {"pages": c.pages.half()}),
        ("pages", lambda c: {"pages": c.pages.T}),
        ("num_kv_heads", lambda c: {"num_kv_heads": 3}),
        ("num_kv_heads", lambda c: {"num_kv_heads": 0}),
        ("block_size", lambda c: {"block_size": 0}),
        ("pages", lambda c: {"block_size": 8}),
        ("scale", lambda c: {"scale": 0.0}),
        ("window", lambda c: {"window": 0}),
        ("batch.query_start", lambda c: {"batch": replace(c.batch, query_start=c.batch.query_start[1:])}),
        ("batch.query_start", lambda c: {"batch": replace(c.batch, query_start=c.batch.query_start.long())}),
        ("batch.context_lens", lambda c: {"batch": replace(c.batch, context_lens=c.batch.context_lens.long())}),
        ("batch.block_table", lambda c: {"batch": replace(c.batch, block_table=c.batch.block_table[:1])}),
        ("batch.block_table", lambda c: {"batch": replace(c.batch, block_table=c.batch.block_table.T.contiguous().T)}),
        ("batch.max_query_len", lambda c: {"batch": replace(c.batch, max_query_len=-1)}),
    ],
)
def test_bad_arguments_are_named(name: str, change) -> None:
    case = draw_case([(20, 1), (20, 6)], Heads(4, 2, 16), 16, seed=1, device=DEVICE)
    arguments = {"query": case.query, "pages": case.pages, "batch": case.batch, **GOOD}
    with pytest.raises(ValueError, match=f"^{name}: .* wanted"):
        paged_attention(**{**arguments, **change(case)})


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=ON_GPU) for kind in ("decodes", "mixed")])
@pytest.mark.parametrize("heads", [Heads(8, 8, 64), Heads(8, 2, 128)], ids=["group1", "group4"])
def test_a_graph_replays_with_other_sequences(kind: str, heads: Heads) -> None:
    """One capture serves other contexts, other pages, fewer sequences and, mixed, another division of the rows."""
    lengths = [[(700, 1), (33, 1), (1, 1)], [(16, 1), (2000, 1)], [(3000, 1)]]
    if kind == "mixed":
        lengths = [[(700, 1), (33, 20), (1, 1)], [(16, 1), (2000, 21)], [(3000, 2), (15, 15), (9, 1), (8, 1)]]
    drawn = [
        draw_case(
            seqs + [(0, 0)] * (5 - len(seqs)),
            heads,
            16,
            seed,
            torch.bfloat16,
            DEVICE,
            max_blocks=200,
            unused_rows=24 - sum(rows for _, rows in seqs),
        )
        for seed, seqs in enumerate(lengths)
    ]
    static = Case(
        torch.empty_like(max(drawn, key=lambda c: len(c.pages)).pages), drawn[0].query.clone(), drawn[0].batch
    )
    static.pages[: len(drawn[0].pages)] = drawn[0].pages
    batch = AttentionBatch(
        query_start=static.batch.query_start.clone(),
        context_lens=static.batch.context_lens.clone(),
        block_table=static.batch.block_table.clone(),
        kv_slots=static.batch.kv_slots,
        max_query_len=1 if kind == "decodes" else None,
    )
    kernel(static.query, static.pages, batch, **shape(heads, 16))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = kernel(static.query, static.pages, batch, **shape(heads, 16))
    for case in drawn + drawn[::-1]:
        static.query.copy_(case.query)
        static.pages[: len(case.pages)] = case.pages
        for name in ("query_start", "context_lens", "block_table"):
            getattr(batch, name).copy_(getattr(case.batch, name))
        output.fill_(torch.nan)
        graph.replay()
        owned = int(case.batch.query_start[-1])
        assert_close(output[:owned].cpu(), expected(case, heads, 16)[:owned])


@pytest.mark.parametrize("rows", [pytest.param(rows, marks=ON_GPU) for rows in (1, 40)])
def test_pages_beyond_32_bits(rows: int) -> None:
    heads = Heads(32, 32, 128)
    case = draw_case([(100, rows)], heads, 16, 1, torch.bfloat16, DEVICE)
    num_pages = 2**32 // case.pages.shape[1] + len(case.pages)
    pages = torch.full((num_pages, case.pages.shape[1]), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    pages[-len(case.pages) :] = case.pages
    table = torch.where(case.batch.block_table < 0, -1, case.batch.block_table + num_pages - len(case.pages)).int()
    far = kernel(case.query, pages, replace(case.batch, block_table=table, derived={}), **shape(heads, 16))
    assert torch.equal(far, kernel(case.query, case.pages, case.batch, **shape(heads, 16)))
