"""Variants give the engine's own tokens; they differ in whose pages are whose, how LoRA is added, when is copied."""

import gc
import weakref

import pytest
import torch

from benchmarks.serve.engines import engine_of
from benchmarks.serve.options import Bounds
from benchmarks.serve.run import request_of
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.variants import NoPrefetch, PaddedBmm, StaticSplit, Unified
from benchmarks.serve.workload import SATURATE, Item, saturate

TINY, CPU = SETUPS["tiny"], torch.device("cpu")
# Of KV a page of 16 tokens and two layers takes 8 KiB, an adapter of rank 8 four pages.
SMALL = Bounds(max_running=16, max_step_tokens=64, pool_bytes=100 * 8192)


def _items(num_adapters: int, count: int) -> list[Item]:
    items = saturate(SATURATE, num_adapters, TINY.vocab_size, count)
    return [Item(item.adapter, item.prompt[:40], min(item.num_output, 24)) for item in items]


def _tokens(variant: Unified, items: list[Item], bounds: Bounds) -> tuple[dict[str, list[int]], list]:
    """What each request got, and every step's figures."""
    adapters = sorted({item.adapter for item in items if item.adapter is not None})
    tokens: dict[str, list[int]] = {}
    stats = []
    with engine_of(TINY, CPU, adapters, bounds, variant) as server:
        for index, item in enumerate(items):
            server.engine.add(request_of(str(index), item, server.adapters))
        while server.engine.has_work:
            result = server.engine.step()
            stats.append(result.stats)
            for output in result.outputs:
                tokens.setdefault(output.request_id, []).extend(output.token_ids)
    return tokens, stats


@pytest.mark.parametrize("variant", [StaticSplit(), PaddedBmm(), NoPrefetch()], ids=lambda variant: variant.name)
@pytest.mark.parametrize("num_adapters", [0, 9])
def test_variants_change_no_token(variant: Unified, num_adapters: int) -> None:
    items = _items(num_adapters, 24)
    items += [Item(None, item.prompt, item.num_output) for item in items[:3]]  # base requests in the same batches
    expected, _ = _tokens(Unified(), items, SMALL)
    assert _tokens(variant, items, SMALL)[0] == expected
    if num_adapters:
        plain, _ = _tokens(Unified(), [Item(None, item.prompt, item.num_output) for item in items], SMALL)
        assert plain != expected, "the adapters do something"


def test_split_pools_lend_nothing() -> None:
    items = _items(30, 60)
    _, unified = _tokens(Unified(), items, SMALL)
    _, split = _tokens(StaticSplit(adapter_share=0.2), items, SMALL)
    assert max(stats.adapter_pages for stats in unified) > 20
    assert 0 < max(stats.adapter_pages for stats in split) <= 20
    assert max(stats.kv_pages for stats in split) <= 80
    assert {stats.total_pages for stats in split} == {100}
    _, split = _tokens(StaticSplit(adapter_share=0.8), items, SMALL)
    assert max(stats.kv_pages for stats in split) <= 20
    assert split[-1].num_preemptions > 0, "KV has no page of the adapters'"


def test_nothing_is_copied_ahead() -> None:
    items = _items(20, 40)

    def first_pages(variant: Unified) -> int:
        return int(_tokens(variant, items, Bounds(max_running=2, max_step_tokens=64))[1][0].adapter_pages)

    assert first_pages(NoPrefetch()) < first_pages(Unified())


@pytest.mark.parametrize("variant", [Unified(), StaticSplit(), PaddedBmm()], ids=lambda variant: variant.name)
def test_an_engine_leaves_its_memory_to_the_next(variant: Unified) -> None:
    with engine_of(TINY, CPU, range(3), SMALL, variant) as server:
        server.run(_items(3, 4))
        kept = [weakref.ref(one) for one in (server.engine, server.engine._storage, server.engine._model)]
    del server
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("variant", [StaticSplit(), PaddedBmm(), NoPrefetch()], ids=lambda variant: variant.name)
def test_variants_end_every_request_on_a_gpu(variant: Unified) -> None:
    items = _items(9, 24)
    bounds = Bounds(max_running=16, max_step_tokens=64, pool_bytes=1 << 26)
    with engine_of(SETUPS["small"], torch.device("cuda"), range(9), bounds, variant) as server:
        run = server.run(items)
    assert [stream.num_tokens for stream in run.streams] == [item.num_output for item in items]
