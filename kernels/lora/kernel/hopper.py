"""Launch of a linear layer of few rows with the shrink of the same rows, and what it takes."""

from torch import Tensor

from kernels.device import num_processors
from kernels.launch import launch
from kernels.linear.kernel.hopper import arguments, suits
from kernels.linear.kernel.tiles import Tiles
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.hopper_linear import linear_and_shrink as kernel
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import MAX_SPAN


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
