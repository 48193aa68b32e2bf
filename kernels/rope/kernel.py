"""Rotary positions in Triton: a program turns several heads of a row and puts each where it belongs."""

from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chain import chained
from kernels.launch import launch
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import (
    MIN_COLUMNS,
    arguments,
    first_b_of,
    is_early,
    is_runwise,
    owned,
    share_of,
)
from kernels.lora.kernel.expand import expand_unless_by_row
from kernels.rope.checks import check_angles, check_rotation

_HEADS = 8  # of a program, at most, without adapters
_DELTA_HEADS, _EARLY_HEADS = 4, 1  # with, of many rows and of few


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


@triton.jit(do_not_specialize=["table_stride"])
def _rotate_and_write(
    qkv,
    cosines,
    sines,
    pages,
    slots,
    head_norm,
    num_slots,
    epsilon,
    bridge,
    owners,
    records,
    lora_pages,
    page_table,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr,
    HEADS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    RUNWISE: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    PIECES: tl.constexpr,
    BRIDGE: tl.constexpr,
    RECORD: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    EARLY: tl.constexpr,
    CHAINED: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    ALL_HEADS: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    dtype = qkv.dtype.element_ty
    row = tl.program_id(0)
    first_head = tl.program_id(1) * HEADS
    head = (first_head + tl.arange(0, HEADS))[:, None]
    lane = tl.arange(0, LANES)[None, :]
    inside = (head < ALL_HEADS) & (lane < HALF)  # [HEADS, LANES]
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    # All heads of a program are of one module, if there are adapters.
    module = (first_head >= NUM_HEADS).to(tl.int32) + (first_head >= NUM_HEADS + NUM_KV_HEADS).to(tl.int32)
    begin = tl.where(module == 0, 0, tl.where(module == 1, NUM_HEADS, NUM_HEADS + NUM_KV_HEADS))
    width = tl.where(module == 0, NUM_HEADS, NUM_KV_HEADS) * HEAD_DIM
    start = (first_head - begin) * HEAD_DIM + tl.arange(0, 2 * HEADS) * HALF  # of each half
    if HAS_DELTA:
        modules = tl.full((2 * HEADS,), module, tl.int32)
        own = owned(tl.load(owners + row), modules, records, page_table, table_stride, 3, RECORD)
        lora_b = first_b_of(own, start, HALF, width, lora_pages, LANES, RUNWISE, PAGE, RANKS, EARLY)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    row64 = row.to(tl.int64)
    place = qkv + row64 * (ALL_HEADS * HEAD_DIM) + head * HEAD_DIM + lane
    first = tl.load(place, inside, other=0.0)
    second = tl.load(place + HALF, inside, other=0.0)
    turn = row64 * HEAD_DIM + lane
    cosine = tl.load(cosines + turn, lane < HALF, other=0.0).to(tl.float32)
    sine = tl.load(sines + turn + HALF, lane < HALF, other=0.0).to(tl.float32)
    a, b = first.to(tl.float32), second.to(tl.float32)
    if HAS_DELTA:
        shares = share_of(lora_b, own, row, start, HALF, width, bridge, lora_pages, LANES, RUNWISE, PIECES, BRIDGE,
                          PAGE, RANKS, EARLY)  # fmt: skip
        first_share, second_share = tl.split(tl.permute(tl.reshape(shares, (HEADS, 2, LANES)), (0, 2, 1)))
        a += first_share
        b += second_share
        first, second = a.to(dtype), b.to(dtype)
        a, b = first.to(tl.float32), second.to(tl.float32)
    if HAS_NORM:
        mean = (tl.sum(a * a, 1) + tl.sum(b * b, 1)) / HEAD_DIM
        scale = (1.0 / tl.sqrt(mean + epsilon))[:, None]
        weight = head_norm + head * HEAD_DIM + lane
        has_weight = inside & (head < NUM_HEADS + NUM_KV_HEADS)
        a = (a * scale).to(dtype).to(tl.float32) * tl.load(weight, has_weight, other=0.0).to(tl.float32)
        b = (b * scale).to(dtype).to(tl.float32) * tl.load(weight + HALF, has_weight, other=0.0).to(tl.float32)
        a, b = a.to(dtype).to(tl.float32), b.to(dtype).to(tl.float32)
    turned_a = ((a * cosine).to(dtype).to(tl.float32) - (b * sine).to(dtype).to(tl.float32)).to(dtype)
    turned_b = ((b * cosine).to(dtype).to(tl.float32) + (a * sine).to(dtype).to(tl.float32)).to(dtype)
    first = tl.where(is_value, first, turned_a)
    second = tl.where(is_value, second, turned_b)

    is_query = inside & (head < NUM_HEADS)
    tl.store(place, first, is_query)
    tl.store(place + HALF, second, is_query)

    slot = tl.load(slots + row)
    first_written = tl.where((slot >= 0) & (slot < num_slots), NUM_HEADS, ALL_HEADS)
    is_written = inside & (head >= first_written)
    part = slot // BLOCK_SIZE * 2 + is_value.to(tl.int64)  # a page holds keys, then values
    token = part * BLOCK_SIZE + slot % BLOCK_SIZE
    kv_head = head - NUM_HEADS - tl.where(is_value, NUM_KV_HEADS, 0)
    target = pages + (token * NUM_KV_HEADS + kv_head) * HEAD_DIM + lane
    tl.store(target, first, is_written)
    tl.store(target + HALF, second, is_written)


def angles(positions: Tensor, frequencies: Tensor, amplitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `kernels.rope.angles`."""
    check_angles(positions, frequencies, dtype)
    num_rows, half = positions.shape[0], frequencies.shape[0]
    cosines, sines = torch.empty((2, num_rows, 1, 2 * half), dtype=dtype, device=positions.device).unbind(0)
    if num_rows:
        launch(
            _angles,
            (num_rows,),
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
    delta: LoraDelta | None = None,
) -> Tensor:
    """As `kernels.rope.rotate_and_write`; queries are rotated in place."""
    cosines, sines = turns
    check_rotation(qkv, cosines, sines, pages, slots, head_norm, num_heads, num_kv_heads, block_size)
    num_rows, all_heads = qkv.shape[0], num_heads + 2 * num_kv_heads
    head_dim = qkv.shape[1] // all_heads
    if num_rows:
        lanes, heads = triton.next_power_of_2(head_dim // 2), _HEADS
        widths = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        delta = expand_unless_by_row(delta, qkv, widths)
        if delta is not None:
            shared = gcd(num_heads, num_kv_heads)
            heads = min(_EARLY_HEADS if is_early(delta) else _DELTA_HEADS, shared & -shared)
            lanes = max(lanes, MIN_COLUMNS // heads)
        launch(
            _rotate_and_write,
            (num_rows, triton.cdiv(all_heads, heads)),
            qkv,
            cosines,
            sines,
            pages,
            slots,
            qkv if head_norm is None else head_norm,
            pages.shape[0] * block_size,
            epsilon,
            BLOCK_SIZE=block_size,
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            LANES=lanes,
            HEADS=heads,
            HAS_NORM=head_norm is not None,
            RUNWISE=is_runwise(delta, lanes) and lanes * 2 == head_dim,
            num_warps=4 if delta is None else max(1, heads * lanes // 256),  # so that a thread has all ranks
            enable_fp_fusion=False,  # each product is rounded before they are added
            **arguments(delta, qkv),
            **chained(qkv.device),
        )
    return qkv.view(num_rows, all_heads, head_dim)[:, :num_heads]
