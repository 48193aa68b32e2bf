"""From the store's file to the pool and back: every matrix lies where the layout says."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from adapters_for_tests import BASE_MODEL, GEOMETRY, SHAPE, canonical_file, layout_of, metadata_of, tensors_of
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.adapters.errors import AdapterNotFinite
from worker.adapters.packing import pack_weights
from worker.adapters.weights import parse_weights
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import MODULES
from worker.memory.storage import PageStorage

POOL_PAGES = 64
ranks_of_layer = st.tuples(*[st.sampled_from((0, 0, 1, 2, 3, 8, 13))] * len(MODULES))
layouts = st.tuples(ranks_of_layer, ranks_of_layer).filter(lambda ranks: any(map(any, ranks)))


@settings(max_examples=40, deadline=None)
@given(ranks=layouts, dtype=st.sampled_from((torch.float32, torch.bfloat16)), random=st.randoms(use_true_random=False))
def test_round_trip(ranks, dtype, random) -> None:
    tensors = tensors_of(layout_of(*ranks))
    weights = parse_weights(canonical_file(tensors), SHAPE, BASE_MODEL)
    assert weights.layout.ranks == ranks
    count = weights.layout.num_pages(GEOMETRY)
    host_pages, pool_pages = (random.sample(range(POOL_PAGES), count) for _ in range(2))
    storage = PageStorage(GEOMETRY, POOL_PAGES, dtype, "cpu")
    storage.pages.fill_(float("nan"))
    with TemporaryDirectory() as folder:
        arena = HostArena.create(ArenaFile.create(Path(folder)), POOL_PAGES, GEOMETRY, dtype)
        for page in range(POOL_PAGES):
            arena.page(page).fill_(float("nan"))
        layout = pack_weights(weights, arena, host_pages)
        arena.copy_to_pool(storage, host_pages, pool_pages)
    assert layout.ranks == ranks
    assert layout.offsets == weights.layout.offsets
    for layer in range(SHAPE.num_layers):
        stream = storage.pages[layer, pool_pages].flatten()
        assert torch.isfinite(stream).all(), "what lies behind the stream is zero"
        for module, rank in enumerate(ranks[layer]):
            if rank:
                start_a, start_b = weights.layout.offsets[layer][module]
                a = stream[start_a : start_a + rank * SHAPE.in_features(module)].view(rank, -1)
                b = stream[start_b : start_b + rank * SHAPE.out_features(module)].view(rank, -1)
                name = f"layers.{layer}.{MODULES[module]}"
                assert torch.equal(a, tensors[f"{name}.lora_A"].to(dtype))
                assert torch.equal(b.t(), tensors[f"{name}.lora_B"].to(dtype) * 2), "B took up the scale of 2"
                assert layout.scales[layer][module] == 1.0
    others = torch.ones(POOL_PAGES, dtype=torch.bool)
    others[pool_pages] = False
    assert torch.isnan(storage.pages[:, others]).all(), "no other page was touched"


def packed(b: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """`v` of layer 1 alone, with this B `[out, rank]`: what lies in the pages for it, and the scale that is left."""
    tensors = tensors_of(layout_of((0,) * 7, (0, 0, b.shape[1], 0, 0, 0, 0)))
    tensors["layers.1.v.lora_B"] = b
    weights = parse_weights(canonical_file(tensors, metadata_of(tensors, scale)), SHAPE, BASE_MODEL)
    num_pages = weights.layout.num_pages(GEOMETRY)
    with TemporaryDirectory() as folder:
        arena = HostArena.create(ArenaFile.create(Path(folder)), num_pages, GEOMETRY, dtype)
        layout = pack_weights(weights, arena, range(num_pages))
        stream = torch.cat([arena.page(page)[1] for page in range(num_pages)])
    start = layout.offsets[1][2][1]
    return stream[start : start + b.numel()].view(b.shape[1], -1).t().clone(), layout.scales[1][2]


def matrices(exponents: st.SearchStrategy[int]) -> st.SearchStrategy[Tensor]:
    """B of `v`, `[8, 1 to 3]` float32, each element of at most 12 bits and an exponent of its own."""
    element = st.builds(math.ldexp, st.integers(-(2**12), 2**12), exponents)
    return st.integers(1, 3).flatmap(
        lambda rank: st.lists(element, min_size=8 * rank, max_size=8 * rank).map(
            lambda values: torch.tensor(values, dtype=torch.float32).view(8, rank)
        )
    )


types = st.sampled_from((torch.float32, torch.bfloat16, torch.float16))
some_scales = st.one_of(
    st.integers(-140, 127).map(lambda exponent: 2.0**exponent),
    st.integers(-4, 4).map(lambda exponent: 2.0**exponent),
    st.sampled_from((0.0, -2.0, 1.5, 3.0, 0.1, 2 / 3, 1e30)),
)


@settings(max_examples=150, deadline=None)
@example(b=torch.ones(8, 1), scale=1.5, dtype=torch.float32)
@given(b=matrices(st.sampled_from((-140, -36, -24, -20, -12, -6, 0, 3, 100))), scale=some_scales, dtype=types)
def test_b_takes_the_scale_up_where_that_is_exact_and_is_left_alone_elsewhere(b, scale, dtype) -> None:
    rounded = b.to(dtype)
    assume(rounded.isfinite().all())
    written, left = packed(b, scale, dtype)
    right = rounded.double() * scale
    is_exact = math.frexp(scale)[0] == 0.5 and torch.equal(right.to(dtype).double(), right)
    if is_exact and scale >= 2.0**-126:
        assert left == 1.0
    if left == scale != 1.0:
        assert torch.equal(written, rounded)
    else:
        assert left == 1.0
        assert is_exact, "scale 1 is left, and B times the scale was rounded"
        assert torch.equal(written.double(), right)


# A product of about 6e-5, an eighth of which is no normal number of float16.
SUBNORMAL = torch.zeros(8, 2).index_put_(
    (torch.tensor([2, 2]), torch.tensor([0, 1])), torch.tensor([-34 / 1024, 2.5 / 1024])
)


@settings(max_examples=60, deadline=None)
@example(b=SUBNORMAL, exponent=-3, dtype=torch.float16, seed=17453, rows=1)
@given(
    b=matrices(st.integers(-14, -10)),
    exponent=st.integers(-3, 3),
    dtype=types,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
)
def test_a_product_with_the_scale_in_b_has_the_bits_of_the_formula(b, exponent, dtype, seed, rows) -> None:
    scale = 2.0**exponent
    written, left = packed(b, scale, dtype)
    assert left == 1.0
    part = torch.randn(rows, b.shape[1], generator=torch.Generator().manual_seed(seed)).to(dtype)  # x @ A.T
    plain = torch.empty_like(written).copy_(b)  # in the same order in memory, in which a GEMM may add its products
    found, product = part @ written.t(), part @ plain.t()
    formula = scale * product
    # Numbers below the smallest normal one have a fixed step, so they are rounded elsewhere once they are scaled.
    least, step = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    is_normal = torch.minimum(product.abs(), formula.abs()) >= least
    assert torch.equal(found[is_normal], formula[is_normal])
    difference = (found.double() - formula.double())[~is_normal].abs()
    assert (difference <= max(1.0, scale) * step).all()


@pytest.mark.parametrize(("value", "scale"), [(6e4, 2.0), (2.0**-24, 0.5)], ids=["overflow", "underflow"])
def test_a_scale_that_does_not_fit_into_b_stays(value: float, scale: float) -> None:
    b = torch.full((8, 1), 1.0)
    b[5] = value
    written, left = packed(b, scale, torch.float16)
    assert left == scale
    assert torch.equal(written, b.half())
    assert packed(b, scale, torch.float32)[1] == 1.0


@given(ranks=layouts)
def test_pages_follow_the_true_ranks_and_targets(ranks) -> None:
    """The largest layer decides, its elements are its matrices' and nothing else, and less than a page is padding."""
    layout = layout_of(*ranks)
    elements = [
        sum(rank * (SHAPE.in_features(m) + SHAPE.out_features(m)) for m, rank in enumerate(layer)) for layer in ranks
    ]
    assert layout.stream_elements == max(elements)
    num_pages = layout.num_pages(GEOMETRY)
    assert 0 <= num_pages * GEOMETRY.page_elements - max(elements) < GEOMETRY.page_elements


def test_a_rank_more_costs_a_rank_more() -> None:
    """q of rank 4 has 4 * (12 + 16) elements in pages of 64; q and v of rank 64 have 64 * (28 + 20)."""
    assert layout_of((4, 0, 0, 0, 0, 0, 0), (4, 0, 0, 0, 0, 0, 0)).num_pages(GEOMETRY) == 2
    assert layout_of((64, 0, 64, 0, 0, 0, 0), (0,) * 7).num_pages(GEOMETRY) == 48


def test_a_weight_too_large_for_the_models_type_is_refused(tmp_path) -> None:
    tensors = tensors_of(layout_of((0, 0, 0, 0, 0, 0, 1), (0,) * 7))
    tensors["layers.0.down.lora_B"][3] = 1e5
    weights = parse_weights(canonical_file(tensors), SHAPE, BASE_MODEL)
    arena = HostArena.create(ArenaFile.create(tmp_path), 4, GEOMETRY, torch.float16)
    with pytest.raises(AdapterNotFinite, match=r"layers\.0\.down holds a weight too large for torch\.float16"):
        pack_weights(weights, arena, (2,))
