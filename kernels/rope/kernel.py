"""Rotary positions in Triton: a program turns several heads of one row and puts each where it belongs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.rope.checks import check_angles, check_rotation

_HEADS = 8  # of a program


@triton.jit
def _angles(cosines, sines, positions, frequencies, amplitude, half, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    inside = lanes < half
    turned = tl.load(positions + row).to(tl.float32) * tl.load(frequencies + lanes, inside, other=0.0)
    dtype = cosines.dtype.element_ty
    cosine = (tl.cos(turned) * amplitude).to(dtype)
    sine = tl.sin(turned) * amplitude
    place = row * 2 * half + lanes
    tl.store(cosines + place, cosine, inside)
    tl.store(cosines + place + half, cosine, inside)
    tl.store(sines + place, (-sine).to(dtype), inside)
    tl.store(sines + place + half, sine.to(dtype), inside)


@triton.jit
def _rotate_and_write(
    qkv,
    cosines,
    sines,
    pages,
    slots,
    head_norm,
    num_heads,
    num_kv_heads,
    num_slots,
    epsilon,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr,
    HEADS: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0).to(tl.int64)
    all_heads = num_heads + 2 * num_kv_heads
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    lane = tl.arange(0, LANES)[None, :]
    inside = (head < all_heads) & (lane < HALF)
    is_value = head >= num_heads + num_kv_heads
    dtype = qkv.dtype.element_ty

    place = qkv + row * all_heads * HEAD_DIM + head * HEAD_DIM + lane  # [HEADS, LANES]
    first = tl.load(place, inside, other=0.0)
    second = tl.load(place + HALF, inside, other=0.0)
    turn = row * HEAD_DIM + lane
    cosine = tl.load(cosines + turn, lane < HALF, other=0.0).to(tl.float32)
    sine = tl.load(sines + turn + HALF, lane < HALF, other=0.0).to(tl.float32)

    a, b = first.to(tl.float32), second.to(tl.float32)
    if HAS_NORM:
        mean = (tl.sum(a * a, 1) + tl.sum(b * b, 1)) / HEAD_DIM
        scale = (1.0 / tl.sqrt(mean + epsilon))[:, None]
        weight = head_norm + head * HEAD_DIM + lane
        has_weight = inside & (head < num_heads + num_kv_heads)
        a = (a * scale).to(dtype).to(tl.float32) * tl.load(weight, has_weight, other=0.0).to(tl.float32)
        b = (b * scale).to(dtype).to(tl.float32) * tl.load(weight + HALF, has_weight, other=0.0).to(tl.float32)
        a, b = a.to(dtype).to(tl.float32), b.to(dtype).to(tl.float32)
    turned_a = ((a * cosine).to(dtype).to(tl.float32) - (b * sine).to(dtype).to(tl.float32)).to(dtype)
    turned_b = ((b * cosine).to(dtype).to(tl.float32) + (a * sine).to(dtype).to(tl.float32)).to(dtype)
    first = tl.where(is_value, first, turned_a)
    second = tl.where(is_value, second, turned_b)

    is_query = inside & (head < num_heads)
    tl.store(place, first, is_query)
    tl.store(place + HALF, second, is_query)

    slot = tl.load(slots + row)
    first_written = tl.where((slot >= 0) & (slot < num_slots), num_heads, all_heads)
    is_written = inside & (head >= first_written)
    page = slot // BLOCK_SIZE
    part = page * 2 + is_value.to(tl.int64)  # a page holds keys, then values
    token = part * BLOCK_SIZE + slot % BLOCK_SIZE
    kv_head = head - num_heads - tl.where(is_value, num_kv_heads, 0)
    target = pages + (token * num_kv_heads + kv_head) * HEAD_DIM + lane
    tl.store(target, first, is_written)
    tl.store(target + HALF, second, is_written)


def angles(positions: Tensor, frequencies: Tensor, amplitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `kernels.rope.angles`."""
    check_angles(positions, frequencies, dtype)
    num_rows, half = positions.shape[0], frequencies.shape[0]
    cosines, sines = torch.empty((2, num_rows, 1, 2 * half), dtype=dtype, device=positions.device).unbind(0)
    if num_rows:
        _angles[(num_rows,)](
            cosines,
            sines,
            positions,
            frequencies,
            amplitude,
            half,
            BLOCK=triton.next_power_of_2(half),
            num_warps=1,
        )
    return cosines, sines


def rotate_and_write(
    qkv: Tensor,
    turns: tuple[Tensor, Tensor],
    pages: Tensor,
    slots: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
    head_norm: Tensor | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """As `kernels.rope.rotate_and_write`; queries are rotated in place."""
    cosines, sines = turns
    check_rotation(qkv, cosines, sines, pages, slots, head_norm, num_heads, num_kv_heads, block_size)
    num_rows, all_heads = qkv.shape[0], num_heads + 2 * num_kv_heads
    head_dim = qkv.shape[1] // all_heads
    if num_rows:
        lanes = triton.next_power_of_2(head_dim // 2)
        _rotate_and_write[(num_rows, triton.cdiv(all_heads, _HEADS))](
            qkv,
            cosines,
            sines,
            pages,
            slots,
            qkv if head_norm is None else head_norm,
            num_heads,
            num_kv_heads,
            pages.shape[0] * block_size,
            epsilon,
            BLOCK_SIZE=block_size,
            HEAD_DIM=head_dim,
            LANES=lanes,
            HEADS=_HEADS,
            HAS_NORM=head_norm is not None,
            num_warps=4,
            enable_fp_fusion=False,  # each product is rounded before they are added
        )
    return qkv.view(num_rows, all_heads, head_dim)[:, :num_heads]
