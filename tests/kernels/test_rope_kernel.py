"""Rotation and write of keys and values in Triton: on a GPU where there is one, else in Triton's interpreter."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.paging import naive as naive_paging
from kernels.rope import kernel, naive, reference
from tests.kernels.buffers import DEVICE, DTYPES, ROUNDED, same_bits
from tests.kernels.tolerances import assert_close

BLOCK_SIZE = 4
NUM_GUARDS = 2  # pages before and after the pool


@dataclass(frozen=True)
class Shape:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    has_norm: bool = False


SHAPES = [Shape(4, 4, 8), Shape(4, 2, 16, True), Shape(6, 1, 10), Shape(9, 3, 24, True), Shape(1, 1, 2)]


@dataclass
class Case:
    qkv: Tensor
    turns: tuple[Tensor, Tensor]
    guarded: Tensor
    slots: Tensor
    options: dict[str, Any]

    @property
    def pages(self) -> Tensor:
        return self.guarded[NUM_GUARDS:-NUM_GUARDS]


def draw_case(shape: Shape, num_rows: int, dtype: torch.dtype, *, pads: bool = True) -> Case:
    """Every third row pads the batch; all pages are NaN."""
    torch.manual_seed(num_rows + shape.head_dim)
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    num_pages = num_rows // BLOCK_SIZE + 3
    slots = torch.randperm(num_pages * BLOCK_SIZE)[:num_rows]
    if pads:
        slots[::3] = -1
    elements = 2 * BLOCK_SIZE * shape.num_kv_heads * shape.head_dim
    frequencies = 10000.0 ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim).to(DEVICE)
    positions = torch.randint(0, 5000, (num_rows,)).to(DEVICE)
    norm = (torch.rand(shape.num_heads + shape.num_kv_heads, shape.head_dim) + 0.5).to(dtype).to(DEVICE)
    return Case(
        qkv=torch.randn(num_rows, width).to(dtype).to(DEVICE),
        turns=kernel.angles(positions, frequencies, 1.0, dtype),
        guarded=torch.full((num_pages + 2 * NUM_GUARDS, elements), torch.nan, dtype=dtype, device=DEVICE),
        slots=slots.to(DEVICE),
        options={
            "num_heads": shape.num_heads,
            "num_kv_heads": shape.num_kv_heads,
            "head_norm": norm if shape.has_norm else None,
            "epsilon": 1e-6,
        },
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 2, 7, 40])
def test_follows_the_formula(num_rows: int, shape: Shape, dtype: torch.dtype) -> None:
    check(draw_case(shape, num_rows, dtype), shape)


@pytest.mark.parametrize("num_rows", [0, 3, 133, 512])
def test_batches(num_rows: int) -> None:
    check(draw_case(SHAPES[4], num_rows, torch.bfloat16), SHAPES[4])


def check(case: Case, shape: Shape) -> None:
    expected = naive.rotated(case.qkv, case.turns, **case.options)
    given = case.qkv.clone()
    query = kernel.rotate_and_write(case.qkv, case.turns, case.pages, case.slots, block_size=BLOCK_SIZE, **case.options)
    assert query.shape == (len(case.slots), shape.num_heads, shape.head_dim)
    assert_close(query, expected[:, : shape.num_heads])
    width = shape.num_heads * shape.head_dim
    assert same_bits(case.qkv[:, width:], given[:, width:]), "keys and values of the rows have changed"

    # The kernel's own writes, wherever they went, are those of the judge: of nothing more, and NaN elsewhere.
    judged = torch.full_like(case.pages, torch.nan, dtype=torch.float64)
    key, value = expected[:, shape.num_heads :].split(shape.num_kv_heads, 1)
    naive_paging.write_kv(judged, key, value, case.slots, BLOCK_SIZE)
    assert torch.equal(judged.isnan(), case.pages.isnan())
    assert_close(case.pages.nan_to_num(), judged.nan_to_num())
    assert case.guarded[:NUM_GUARDS].isnan().all()
    assert case.guarded[-NUM_GUARDS:].isnan().all()


@pytest.mark.parametrize("dtype", [dtype for name, dtype in ROUNDED.items() if name != "fp32"], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_rounds_where_the_reference_does(shape: Shape, dtype: torch.dtype) -> None:
    case = draw_case(shape, 40, dtype, pads=False)
    pages = case.pages.clone()
    theirs = reference.rotate_and_write(case.qkv, case.turns, pages, case.slots, block_size=BLOCK_SIZE, **case.options)
    ours = kernel.rotate_and_write(case.qkv, case.turns, case.pages, case.slots, block_size=BLOCK_SIZE, **case.options)
    differing = ((ours != theirs).sum() + (case.pages.nan_to_num() != pages.nan_to_num()).sum()) / case.qkv.numel()
    assert differing <= (0.01 if shape.has_norm else 0)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("half", [1, 3, 64])
def test_angles(half: int, dtype: torch.dtype) -> None:
    positions = torch.tensor([0, 1, 63, 4095, 131071], device=DEVICE)
    frequencies = 10000.0 ** -(torch.arange(half, device=DEVICE) / half)
    for found in (kernel.angles, reference.angles):
        for table, expected in zip(
            found(positions, frequencies, 0.7, dtype), naive.angles(positions, frequencies, 0.7), strict=True
        ):
            assert table.dtype == dtype
            assert_close(table, expected)


def test_slots_out_of_the_pool_write_nothing() -> None:
    case = draw_case(SHAPES[0], 4, torch.float32)
    num_slots = case.pages.shape[0] * BLOCK_SIZE
    slots = torch.tensor([-1, -(2**40), num_slots, 2**40], device=DEVICE)
    kernel.rotate_and_write(case.qkv, case.turns, case.pages, slots, block_size=BLOCK_SIZE, **case.options)
    assert case.guarded.isnan().all()


def test_a_row_has_the_same_bits_whatever_is_beside_it() -> None:
    case = draw_case(SHAPES[1], 20, torch.bfloat16, pads=False)
    together, alone = case.pages.clone(), case.pages
    rows = case.qkv.clone()
    queries = [
        kernel.rotate_and_write(
            rows[i : i + 1],
            (case.turns[0][i : i + 1], case.turns[1][i : i + 1]),
            alone,
            case.slots[i : i + 1],
            block_size=BLOCK_SIZE,
            **case.options,
        )
        for i in range(20)
    ]
    query = kernel.rotate_and_write(case.qkv, case.turns, together, case.slots, block_size=BLOCK_SIZE, **case.options)
    assert same_bits(query, torch.cat(queries))
    assert same_bits(together, alone)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_a_graph_sees_new_contents() -> None:
    case = draw_case(SHAPES[3], 64, torch.bfloat16)
    arguments = (case.qkv, case.turns, case.pages, case.slots)
    kernel.rotate_and_write(*arguments, block_size=BLOCK_SIZE, **case.options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel.rotate_and_write(*arguments, block_size=BLOCK_SIZE, **case.options)
    for turn in range(3):
        fresh = draw_case(SHAPES[3], 64, torch.bfloat16)
        case.qkv.copy_(fresh.qkv)
        case.slots.copy_(fresh.slots.roll(turn))
        case.pages.fill_(torch.nan)
        graph.replay()
        expected = kernel.rotate_and_write(
            fresh.qkv, case.turns, fresh.pages, case.slots, block_size=BLOCK_SIZE, **case.options
        )
        assert same_bits(case.qkv.view(64, -1, 24)[:, :9], expected)
        assert same_bits(case.pages, fresh.pages)


@pytest.mark.parametrize("name", ["qkv", "cosines", "sines", "pages", "slots", "head_norm", "num_heads"])
def test_a_bad_argument_is_named(name: str) -> None:
    case = draw_case(SHAPES[1], 4, torch.float32)
    good = {
        "qkv": case.qkv,
        "cosines": case.turns[0],
        "sines": case.turns[1],
        "pages": case.pages,
        "slots": case.slots,
        "head_norm": case.options["head_norm"],
        "num_heads": 4,
    }
    bad: dict[str, list[Any]] = {
        "qkv": [case.qkv[0], case.qkv[:, 1:], case.qkv.int(), torch.zeros(128, 4, device=DEVICE).t()],
        "cosines": [case.turns[0][:3], case.turns[0].half(), case.turns[0][:, 0]],
        "sines": [case.turns[1][:3], case.turns[1].half(), case.turns[1][:, :, ::2]],
        "pages": [case.pages[:, :-1], case.pages.half(), case.pages[0], case.pages[::2]],
        "slots": [case.slots.int(), case.slots[:3], case.slots[:, None]],
        "head_norm": [good["head_norm"][:5], good["head_norm"].half()],
        "num_heads": [0],
    }
    for value in bad[name]:
        given = {**good, name: value}
        with pytest.raises(ValueError, match=name):
            kernel.rotate_and_write(
                given["qkv"],
                (given["cosines"], given["sines"]),
                given["pages"],
                given["slots"],
                num_heads=given["num_heads"],
                num_kv_heads=2,
                block_size=BLOCK_SIZE,
                head_norm=given["head_norm"],
            )
