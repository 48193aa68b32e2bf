"""What MBGMM asks of its arguments. Nothing here reads a device: a check costs no synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.delta import LoraDelta
from kernels.lora.directory import LoraDirectory

_NUM_MODULES = 7


def check(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """Raises a ValueError that names the argument of `kernels.lora.mbgmm` to change."""
    if x.ndim != 2 or x.stride(1) != 1 or not x.is_floating_point():
        raise ValueError(
            f"x: [num_rows, in] of floating point with unit stride in its last dimension wanted, "
            f"got {tuple(x.shape)} of {x.dtype} and strides {x.stride()}"
        )
    if not 1 <= len(modules) <= 3 or len(set(modules)) != len(modules) or not set(modules) < set(range(_NUM_MODULES)):
        raise ValueError(f"modules: one to three different numbers from 0 to 6 wanted, got {list(modules)}")
    if len(outputs) != len(modules):
        raise ValueError(f"outputs: one for each of {len(modules)} modules wanted, got {len(outputs)}")
    dtype, device, num_rows = x.dtype, x.device, x.shape[0]
    for index, output in enumerate(outputs):
        if output.ndim != 2 or output.shape[0] != num_rows or output.stride(1) != 1:
            raise ValueError(
                f"outputs[{index}]: [{num_rows}, out] as of x, with unit stride in its last dimension, wanted, "
                f"got {tuple(output.shape)} of strides {output.stride()}"
            )
        if output.dtype != dtype or output.device != device:
            raise ValueError(
                f"outputs[{index}]: {dtype} on {device} wanted as of x, got {output.dtype} on {output.device}"
            )
    if pages.ndim != 2 or not pages.is_contiguous() or pages.dtype != dtype or pages.device != device:
        raise ValueError(
            f"pages: one layer's [num_pages, page_elements], contiguous, {dtype} on {device} as of x, wanted, "
            f"got {tuple(pages.shape)} of {pages.dtype} on {pages.device} and strides {pages.stride()}"
        )
    if not 0 <= layer < batch.directory.places.shape[1]:
        raise ValueError(f"layer: 0 to {batch.directory.places.shape[1] - 1} as in batch.directory wanted, got {layer}")
    if device not in batch.plans:  # its tables are the same in every layer
        _check_batch(batch, device)
        batch.plans[device] = None


def check_delta(delta: LoraDelta, whole: Tensor, widths: Sequence[int]) -> None:
    """Raises a ValueError that names `delta` if it is not for `whole`, `[num_rows, sum of widths]`, cut in `widths`."""
    if [output.shape[1] for output in delta.outputs] != list(widths) or not begin_columns(delta.outputs, whole):
        raise ValueError(
            f"delta: one for the columns {list(widths)} of {tuple(whole.shape)} with strides {whole.stride()} wanted, "
            f"got one for {[tuple(output.shape) for output in delta.outputs]} elsewhere or of other widths"
        )


def begin_columns(outputs: Sequence[Tensor], whole: Tensor) -> bool:
    """Whether outputs are columns of `whole`, from the first on and one after the other."""
    first = whole.data_ptr()
    for output in outputs:
        if output.data_ptr() != first or output.shape[0] != whole.shape[0] or output.stride(0) != whole.stride(0):
            return False
        first += output.shape[1] * whole.element_size()
    return True


def _check_batch(batch: LoraBatch, device: torch.device) -> None:
    num_live = batch.slots.shape[0]
    _check_table("batch.row_start", batch.row_start, (num_live + 1,), torch.int32, device)
    _check_table("batch.slots", batch.slots, (num_live,), torch.int32, device)
    _check_directory(batch.directory, device)


def _check_directory(directory: LoraDirectory, device: torch.device) -> None:
    num_slots, num_layers = directory.places.shape[:2]
    size = (num_slots, num_layers, _NUM_MODULES)
    width = directory.page_table.shape[-1]
    _check_table("batch.directory.places", directory.places, (*size, 3), torch.int32, device)
    _check_table("batch.directory.scales", directory.scales, size, torch.float32, device)
    _check_table("batch.directory.page_table", directory.page_table, (num_slots, width), torch.int32, device)
    for name, value, least in (("chunk_elements", directory.chunk_elements, 1), ("max_rank", directory.max_rank, 0)):
        if value < least:
            raise ValueError(f"batch.directory.{name}: at least {least} wanted, got {value}")


def _check_table(name: str, table: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if table.shape != shape or table.dtype != dtype or table.device != device or not table.is_contiguous():
        raise ValueError(
            f"{name}: {list(shape)}, contiguous, {dtype} on {device} wanted, "
            f"got {tuple(table.shape)} of {table.dtype} on {table.device} and strides {table.stride()}"
        )
