"""From the store's file to the pool and back: every matrix lies where the layout says."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from adapters_for_tests import BASE_MODEL, GEOMETRY, SHAPE, canonical_file, layout_of, tensors_of
from hypothesis import given, settings
from hypothesis import strategies as st

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
        pack_weights(weights, arena, host_pages)
        arena.copy_to_pool(storage, host_pages, pool_pages)
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
                assert torch.equal(b.t(), tensors[f"{name}.lora_B"].to(dtype))
    others = torch.ones(POOL_PAGES, dtype=torch.bool)
    others[pool_pages] = False
    assert torch.isnan(storage.pages[:, others]).all(), "no other page was touched"


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
