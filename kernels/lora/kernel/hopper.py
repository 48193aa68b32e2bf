"""Launches of a linear layer with the shrink of its rows, or the expand of many, and what they take."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.device import has_hopper_halves, num_processors
from kernels.launch import launch
from kernels.linear.kernel.hopper import arguments, suits
from kernels.linear.kernel.hopper_product import HALF, TILE
from kernels.linear.kernel.tiles import MAX_ROWS, Tiles
from kernels.linear.kernel.whole import (
    arrivals_of,
    has_aligned_rows,
    library_us,
    num_steps,
    num_tiles,
    product_arguments,
    tile_us,
)
from kernels.lora.batch import LoraBatch
from kernels.lora.checks import begin_columns
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.hopper_apart import linear_and_shrink_apart
from kernels.lora.kernel.hopper_expand import linear_and_expand
from kernels.lora.kernel.hopper_linear import linear_and_shrink as kernel
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import MAX_SPAN, SPLIT_ROWS, Beside, num_pages_of

# Measured on an H200: what it takes in us to launch a shrink alone, and to shrink one of a row's inputs with adapters
# as they usually are.
_ALONE_US, _INPUT_US = 9.0, 3.4e-6
_EARLY_ROWS = 384  # with more, products of whole tiles take longer if they are launched early
_MEET_US = 2.0  # that two programs take to add what each has of a tile
_ROUND_STEPS = 4  # of a product, in which a warpgroup shrinks a round
# Rows of a batch with prompts by the largest rank that an adapter may have, at most, for shrinks apart: of many rows of
# an adapter they read its rank rows again for every 8.
_MOST_ROW_RANKS = 16384


def tiles_of(delta: LoraDelta, weight: Tensor) -> Tiles | None:
    """The tiles of the linear layer; None where the kernel does not take these."""
    num_rows = delta.x.shape[0]
    if num_rows > delta.plan.tiling.shrink_few or not _has_whole_spans(delta.x, delta.pages, delta.batch):
        return None
    tiles = Tiles.of(num_rows, weight.shape[0])
    return tiles if tiles and suits(delta.x, weight, tiles) else None


def launch_both(
    delta: LoraDelta, weight: Tensor, out: Tensor, bias: Tensor | None, tiles: Tiles, *, chained: bool
) -> None:
    """Writes `out` and the bridge of the delta's plan."""
    linear, linear_options = arguments(delta.x, weight, out, bias, tiles)
    shrink, shrink_options = _shrink_arguments(delta)
    processors = num_processors(delta.x.device)
    options = {**linear_options, **shrink_options}
    launch(kernel, (processors,), *linear, *shrink, **options, maxnreg=112, launch_pdl=chained)


def _shrink_arguments(delta: LoraDelta) -> tuple[tuple[Any, ...], dict[str, int]]:
    """What a kernel is told of a shrink: its arguments, and options."""
    plan, page_table, in_features = delta.plan, delta.batch.directory.page_table, delta.x.shape[1]
    positional = (
        delta.x,
        delta.pages,
        page_table,
        plan.starts[delta.layer],
        plan.records[delta.layer],
        plan.bridge,
        page_table.shape[1],
    )
    options = {
        "MODULES": len(delta.modules),
        "WIDTH": plan.bridge.shape[2],
        "IN": in_features,
        "PAGE": delta.pages.shape[1],
        "PIECES": plan.bridge.shape[1],
        "ROUNDS": plan.tiling.num_rounds(in_features),
        "RECORD": RECORD,
        "LIVE": plan.tiling.live,
    }
    return positional, options


def beside(
    x: Tensor, weight: Tensor, out: Tensor, outputs: Sequence[Tensor], pages: Tensor, batch: LoraBatch
) -> Beside:
    """What the linear layer of these does beside its product."""
    if adds_shares(x, weight, out, outputs, pages, batch):
        return Beside.ADDS
    if shrinks_apart(x, weight, out, pages, batch, len(outputs)):
        return Beside.SHRINKS
    return Beside.NOTHING


def shrinks_apart(x: Tensor, weight: Tensor, out: Tensor, pages: Tensor, batch: LoraBatch, num_modules: int) -> bool:
    """Whether the linear layer shrinks on processors apart: where it has these to spare, and takes such inputs."""
    (num_rows, in_features), out_features = x.shape, weight.shape[0]
    return (
        may_shrink_apart(num_rows, batch.directory.max_rank, is_decode=batch.is_decode)
        and has_hopper_halves(x)
        and x.is_contiguous()
        and all(map(has_aligned_rows, (x, weight, out, pages)))
        and _has_whole_spans(x, pages, batch)
        and pays_apart(num_rows, in_features, out_features, num_modules, num_processors(x.device))
    )


def _has_whole_spans(x: Tensor, pages: Tensor, batch: LoraBatch) -> bool:
    """Whether neither a page nor a row ends within a span, and rank rows lie in few pages."""
    in_features = x.shape[1]
    has_whole_runs = batch.directory.chunk_elements % MAX_SPAN == 0
    return has_whole_runs and in_features % MAX_SPAN == 0 and num_pages_of(in_features, pages.shape[1]) > 0


def may_shrink_apart(num_rows: int, max_rank: int, *, is_decode: bool) -> bool:
    """Whether MBGMV's tiles alone are for a batch of so many rows, whose adapters may have so large ranks."""
    return MAX_ROWS < num_rows <= SPLIT_ROWS and (is_decode or num_rows * max_rank <= _MOST_ROW_RANKS)


def pays_apart(num_rows: int, in_features: int, out_features: int, num_modules: int, processors: int) -> bool:
    """Whether a product in whole tiles loses less time than it takes to shrink before the library's product."""
    num_turns, num_shares = turns_and_shares(num_rows, out_features, processors)
    apart = num_turns * tile_us(in_features) / num_shares + _MEET_US * (num_shares - 1)
    library = library_us(num_rows, in_features, out_features, processors)
    return apart - library <= _ALONE_US + _INPUT_US * num_rows * in_features * num_modules


def turns_and_shares(num_rows: int, out_features: int, processors: int) -> tuple[int, int]:
    """The tiles that a program has, at most, and how many programs share one, one or two.

    Two where there is a processor for each: they wait for each other.
    """
    tiles = num_tiles(num_rows, out_features)
    return -(-tiles // processors), 2 if 2 * tiles <= processors else 1


def launch_apart(delta: LoraDelta, weight: Tensor, out: Tensor, bias: Tensor | None, *, chained: bool) -> None:
    """Writes `out` and the bridge of the delta's plan."""
    (num_rows, in_features), out_features = delta.x.shape, weight.shape[0]
    processors = num_processors(delta.x.device)
    num_turns, num_shares = turns_and_shares(num_rows, out_features, processors)
    num_multiplying = -(-num_tiles(num_rows, out_features) * num_shares // num_turns)
    product, product_options = product_arguments(delta.x, weight, out, bias)
    shrink, shrink_options = _shrink_arguments(delta)
    launch(
        linear_and_shrink_apart,
        (processors,),
        *product,
        max(0, num_rows - TILE),
        num_multiplying,
        num_shares,
        num_turns * num_steps(in_features) // (num_shares * _ROUND_STEPS),
        torch.empty(num_multiplying * (num_shares - 1), TILE, HALF, dtype=torch.float32, device=delta.x.device),
        delta.plan.flags,
        *shrink,
        **product_options,
        **shrink_options,
        launch_pdl=chained and num_rows <= _EARLY_ROWS,
    )


def adds_shares(
    x: Tensor, weight: Tensor, out: Tensor, outputs: Sequence[Tensor], pages: Tensor, batch: LoraBatch
) -> bool:
    """Whether the linear layer adds what adapters of many rows have."""
    return (
        x.shape[0] > SPLIT_ROWS
        and has_hopper_halves(x)
        and all(map(has_aligned_rows, (x, weight, out, pages)))
        and batch.directory.chunk_elements % TILE == 0
        and all(output.shape[1] % TILE == 0 for output in outputs)
        and sum(output.shape[1] for output in outputs) == out.shape[1]
        and begin_columns(outputs, out)
    )


def launch_with_shares(delta: LoraDelta, weight: Tensor, out: Tensor, bias: Tensor | None) -> None:
    """Writes `out`, with the shares that are not left to an expand.

    It is not launched early, with which it takes a fifth longer; nor could it be, as neither who streams the inputs nor
    who adds, and reads the bridge, waits for the kernel in front.
    """
    plan, page_table = delta.plan, delta.batch.directory.page_table
    product, product_options = product_arguments(delta.x, weight, out, bias)
    widths = [output.shape[1] for output in delta.outputs]
    launch(
        linear_and_expand,
        (num_processors(delta.x.device),),
        *product,
        delta.pages,
        page_table,
        plan.tile_owners,
        plan.records[delta.layer],
        plan.bridge,
        page_table.shape[1],
        arrivals_of(delta.x.device),
        **product_options,
        **{f"OUT{i}": width for i, width in enumerate([*widths, 0, 0][:3])},
        WIDTH=plan.bridge.shape[2],
        PAGE=delta.pages.shape[1],
        RECORD=RECORD,
    )
