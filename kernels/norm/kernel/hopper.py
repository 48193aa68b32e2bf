"""Launch of the cluster's kernel, and what it takes."""

import torch
import triton
from torch import Tensor

from kernels.device import has_hopper_halves, is_aligned
from kernels.launch import launch
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import arguments, is_early, is_runwise
from kernels.norm.kernel.hopper_cluster import LANES, PROGRAMS, norm_rows

_WARP_COLUMNS = 32 * LANES
_MOST_WARPS = 4  # a program of more finds no room beside the kernel in front


def columns_of(hidden: Tensor, delta: LoraDelta | None) -> int | None:
    """Columns of each program of a cluster; None where the kernel does not take these."""
    if delta is None or not has_hopper_halves(hidden):
        return None
    width = hidden.shape[1]
    columns = max(_WARP_COLUMNS, triton.next_power_of_2(triton.cdiv(width, PROGRAMS)))
    suits = (
        is_early(delta)
        and is_aligned(delta.pages)
        and columns <= _MOST_WARPS * _WARP_COLUMNS
        and width % columns == 0
        and is_runwise(delta, columns)
    )
    return columns if suits else None


def norm_by_cluster(
    output: Tensor, hidden: Tensor, update: Tensor, weight: Tensor, epsilon: float, delta: LoraDelta, columns: int
) -> None:
    """`kernels.norm.add_rms_norm` with what is to be added by row."""
    num_rows, width = hidden.shape
    given = arguments(delta, hidden)
    launch(
        norm_rows,
        (num_rows,),
        output,
        hidden,
        update,
        weight,
        torch.empty((num_rows, PROGRAMS), dtype=torch.float32, device=hidden.device),
        hidden.stride(0),
        update.stride(0),
        width,
        epsilon,
        **{name: given[name] for name in norm_rows.arg_names if name in given},
        COLUMNS=columns,
        num_warps=columns // _WARP_COLUMNS,
        num_ctas=PROGRAMS,
        launch_pdl=True,
    )
