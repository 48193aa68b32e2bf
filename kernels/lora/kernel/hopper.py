"""Launches of a linear layer with the shrink of few rows, or the expand of many, and what they take."""

from collections.abc import Sequence

from torch import Tensor

from kernels.device import ALIGNMENT, has_hopper_halves, is_aligned, num_processors
from kernels.launch import launch
from kernels.linear.kernel.hopper import arguments, describe, suits
from kernels.linear.kernel.tiles import Tiles
from kernels.lora.batch import LoraBatch
from kernels.lora.checks import begin_columns
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.hopper_expand import linear_and_expand
from kernels.lora.kernel.hopper_linear import linear_and_shrink as kernel
from kernels.lora.kernel.hopper_product import STEP, TILE
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import MAX_SPAN, SPLIT_ROWS


def tiles_of(delta: LoraDelta, weight: Tensor) -> Tiles | None:
    """The tiles of the linear layer; None where the kernel does not take these."""
    tiling, (num_rows, in_features) = delta.plan.tiling, delta.x.shape
    has_whole_spans = tiling.span == MAX_SPAN and tiling.is_rowwise and in_features % MAX_SPAN == 0
    if num_rows > tiling.shrink_few or not has_whole_spans or in_features > delta.pages.shape[1]:
        return None
    tiles = Tiles.of(num_rows, weight.shape[0])
    return tiles if tiles and suits(delta.x, weight, tiles) else None


def launch_both(
    delta: LoraDelta, weight: Tensor, out: Tensor, bias: Tensor | None, tiles: Tiles, *, chained: bool
) -> None:
    """Writes `out` and the bridge of the delta's plan."""
    plan, page_table, in_features = delta.plan, delta.batch.directory.page_table, delta.x.shape[1]
    positional, options = arguments(delta.x, weight, out, bias, tiles)
    launch(
        kernel,
        (num_processors(delta.x.device),),
        *positional,
        delta.x,
        delta.pages,
        page_table,
        plan.starts[delta.layer],
        plan.records[delta.layer],
        plan.bridge,
        page_table.shape[1],
        MODULES=len(delta.modules),
        WIDTH=plan.bridge.shape[2],
        IN=in_features,
        PAGE=delta.pages.shape[1],
        PIECES=plan.bridge.shape[1],
        ROUNDS=plan.tiling.num_rounds(in_features),
        RECORD=RECORD,
        LIVE=plan.tiling.live,
        **options,
        maxnreg=112,
        launch_pdl=chained,
    )


def adds_shares(
    x: Tensor, weight: Tensor, out: Tensor, outputs: Sequence[Tensor], pages: Tensor, batch: LoraBatch
) -> bool:
    """Whether the linear layer adds what adapters of many rows have."""
    return (
        x.shape[0] > SPLIT_ROWS
        and has_hopper_halves(x)
        and all(map(_has_aligned_rows, (x, weight, out, pages)))
        and batch.directory.chunk_elements % TILE == 0
        and all(output.shape[1] % TILE == 0 for output in outputs)
        and sum(output.shape[1] for output in outputs) == out.shape[1]
        and begin_columns(outputs, out)
    )


def _has_aligned_rows(matrix: Tensor) -> bool:
    """Whether its rows begin where TMA takes them."""
    row_bytes = matrix.stride(0) * matrix.element_size()
    return matrix.stride(1) == 1 and row_bytes % ALIGNMENT == 0 and is_aligned(matrix)


def launch_with_shares(delta: LoraDelta, weight: Tensor, out: Tensor, bias: Tensor | None) -> None:
    """Writes `out`, with the shares that are not left to an expand.

    It is not launched early, with which it takes a fifth longer; nor could it be, as neither who streams the inputs nor
    who adds, and reads the bridge, waits for the kernel in front.
    """
    plan, page_table = delta.plan, delta.batch.directory.page_table
    (num_rows, in_features), out_features = delta.x.shape, weight.shape[0]
    widths = [output.shape[1] for output in delta.outputs]
    launch(
        linear_and_expand,
        (num_processors(delta.x.device),),
        describe(out, TILE),
        describe(weight, TILE),
        describe(delta.x, TILE),
        out if bias is None else bias,
        -(-num_rows // TILE),
        -(-out_features // TILE),
        -(-in_features // STEP),
        out_features,
        delta.pages,
        page_table,
        plan.tile_owners,
        plan.records[delta.layer],
        plan.bridge,
        page_table.shape[1],
        HAS_BIAS=bias is not None,
        **{f"OUT{i}": width for i, width in enumerate([*widths, 0, 0][:3])},
        WIDTH=plan.bridge.shape[2],
        PAGE=delta.pages.shape[1],
        RECORD=RECORD,
        num_warps=4,
        maxnreg=168,
    )
