"""Ops that add adapters' shares on their way give what the expand first and the plain op then give."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import activation, norm, rope
from kernels.activation import kernel as activation_kernel
from kernels.lora import LoraBatch, LoraDelta
from kernels.lora import reference as lora_reference
from kernels.lora.kernel import delta as lora_delta
from kernels.lora.kernel import expand, shrink, tiling
from kernels.norm import kernel as norm_kernel
from kernels.rope import kernel as rope_kernel
from tests.kernels.buffers import DEVICE, same_bits
from tests.kernels.lora_cases import Case, draw_case, draw_counts
from tests.kernels.rotation_cases import rotate
from tests.kernels.tolerances import assert_close
from worker.memory.layout import GROUPS, ModelShape, PageGeometry

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
DTYPES = [
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32", marks=ON_GPU),  # in the interpreter one type is enough
    pytest.param(torch.bfloat16, id="bf16", marks=ON_GPU),
]
QKV, OUTPUT, GATE_UP, DOWN = GROUPS
GEOMETRIES = {
    "wide": PageGeometry(ModelShape(2, 192, 4, 2, 64, 448), 16),
    "narrow": PageGeometry(ModelShape(2, 48, 4, 2, 8, 80), 4),
    "odd": PageGeometry(ModelShape(2, 36, 3, 1, 12, 27), 3),
}
LLAMA_8B = PageGeometry(ModelShape(1, 4096, 32, 8, 128, 14336), 16)
QWEN_4B = PageGeometry(ModelShape(1, 2560, 32, 8, 128, 9728), 16)  # five programs of a cluster have columns
EPSILON = 1e-5


def draw(counts: list[int], dtype: torch.dtype, geometry: PageGeometry, ranks: tuple[int, ...] = (0, 1, 8, 20)) -> Case:
    return draw_case(random.Random(f"{counts}"), counts, ranks, dtype, DEVICE, geometry)


class Group:
    """A group's input, its outputs as one contiguous tensor, and what adapters add to it."""

    def __init__(self, case: Case, modules: tuple[int, ...], *, is_decode: bool = True) -> None:
        widths = [case.shape.out_features(module) for module in modules]
        torch.manual_seed(len(modules))
        x = torch.randn(case.num_rows, case.shape.in_features(modules[0])).to(case.pages)
        self.whole = torch.randn(case.num_rows, sum(widths)).to(case.pages)
        batch = replace(case.batch, is_decode=is_decode)
        self.delta = shrink(self.whole.split(widths, 1), x, case.pages[0], batch, layer=0, modules=modules)
        self.expanded = self.whole.clone()
        if self.delta is not None:
            expand(replace(self.delta, outputs=self.expanded.split(widths, 1)))


BATCHES = {
    "distinct": [1, 1, 1, 1],
    "many_rows": [3, 14, 2],
    "base_only": [5, 0, 0],
    "zipf": draw_counts(random.Random(3), "zipf", 21),
}


def cases() -> list[Any]:
    small = [
        pytest.param(counts, geometry, id=f"{name}-{size}")
        for name, counts in BATCHES.items()
        for size, geometry in GEOMETRIES.items()
    ]
    large = [([1, 2, 30, 1], LLAMA_8B), ([9, 20, 1, 34], LLAMA_8B), ([9, 130, 60], LLAMA_8B), ([1, 2, 30, 1], QWEN_4B)]
    return small + [pytest.param(*case, id=f"{case[0]}-{case[1].shape.hidden_size}", marks=ON_GPU) for case in large]


@pytest.fixture(params=[True, False], ids=["early", "late"], autouse=True)
def is_early(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether matrices are asked for before earlier kernels have ended, as with few rows, or not, as with more."""
    monkeypatch.setattr(lora_delta, "EARLY_ROWS", 64 if request.param else 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "geometry"), cases())
def test_silu_mul(counts: list[int], geometry: PageGeometry, dtype: torch.dtype) -> None:
    group = Group(draw(counts, dtype, geometry), GATE_UP)
    given = group.whole.clone()
    found = activation_kernel.silu_mul(group.whole, delta=group.delta)
    assert_close(found, activation_kernel.silu_mul(group.expanded).double())
    assert same_bits(group.whole, given)


LARGE = {
    "two_tiles": ([5, 300, 2], (8,)),
    "idle_adapters": ([0, 0, 40, 0], (8,)),
    "nobodys": ([30, 0, 0], (8,)),
    "base_first": ([270, 20, 1], (0, 3)),
    "no_rank": ([1, 40, 3], (0,)),
    "large_ranks": ([3, 30, 9], (3, 20, 70, 100)),
}


def large_cases() -> list[Any]:
    """Of the large geometry all that is large, of the small ones one each."""
    shapes = [("two_tiles", "narrow"), ("idle_adapters", "narrow"), ("nobodys", "odd"), ("base_first", "odd")]
    shapes += [("no_rank", "narrow"), ("large_ranks", "wide")]
    return [pytest.param(*LARGE[name], GEOMETRIES[size], id=f"{name}-{size}") for name, size in shapes] + [
        pytest.param(*batch, LLAMA_8B, id=f"{name}-llama", marks=ON_GPU) for name, batch in LARGE.items()
    ]


@pytest.mark.parametrize("num_unused", [0, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "ranks", "geometry"), large_cases())
def test_silu_mul_of_a_large_batch(
    counts: list[int],
    ranks: tuple[int, ...],
    geometry: PageGeometry,
    dtype: torch.dtype,
    num_unused: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gate and up are added to first; rows after all adapters' are computed."""
    monkeypatch.setattr(tiling, "SPLIT_ROWS", 0)
    case = draw(counts, dtype, geometry, ranks)
    group = Group(replace(case, num_rows=case.num_rows + num_unused), GATE_UP, is_decode=False)
    out = torch.full_like(group.whole[:, : geometry.shape.intermediate_size], torch.nan)
    activation_kernel.silu_mul(group.whole, out, group.delta)
    assert same_bits(out, activation_kernel.silu_mul(group.expanded))
    assert same_bits(group.whole, group.expanded)


@pytest.mark.parametrize("spared", GATE_UP, ids=["up_only", "gate_only"])
def test_in_a_large_batch_nobody_is_scaled_by_others(spared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither rows without an adapter nor a module of rank 0; and adapters that the batch has room for own no row."""
    monkeypatch.setattr(tiling, "SPLIT_ROWS", 0)
    geometry = GEOMETRIES["narrow"]
    case = draw([3, 9, 4], torch.float16, geometry, (8,))
    places, scales = case.batch.directory.places.clone(), case.batch.directory.scales.clone()
    slots = case.batch.slots
    places[slots[0], :, spared, 0], scales[slots[0], :, spared] = 0, torch.nan
    directory = replace(case.batch.directory, places=places, scales=scales)
    starts = torch.cat([case.batch.row_start, case.batch.row_start[-1:].expand(68)])
    batch = LoraBatch(starts, torch.cat([slots, slots[:1].expand(68)]), directory)
    assert tiling.Tiling.of(16, len(batch.slots), directory).live == 512
    group = Group(replace(case, batch=batch, num_rows=20), GATE_UP, is_decode=False)
    assert group.expanded.isfinite().all()
    found = activation_kernel.silu_mul(group.whole, delta=group.delta)
    assert same_bits(found, activation_kernel.silu_mul(group.expanded))


@pytest.mark.parametrize("modules", [OUTPUT, DOWN], ids=["o", "down"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "geometry"), cases())
def test_norms(counts: list[int], geometry: PageGeometry, dtype: torch.dtype, modules: tuple[int, ...]) -> None:
    case = draw(counts, dtype, geometry)
    group = Group(case, modules)
    hidden = torch.randn_like(group.whole)
    weight = torch.rand(hidden.shape[1]).to(hidden) + 0.5
    ours, theirs = hidden.clone(), hidden.clone()
    found = norm_kernel.add_rms_norm(ours, group.whole, weight, EPSILON, delta=group.delta)
    expected = norm_kernel.add_rms_norm(theirs, group.expanded, weight, EPSILON)
    assert_close(ours, theirs.double())
    assert_close(found, expected.double())
    rows = torch.tensor([case.num_rows - 1, 0, case.num_rows - 1], device=DEVICE)
    wanted = norm_kernel.gather_rms_norm(hidden, group.whole, rows, weight, EPSILON, group.delta)
    assert_close(wanted, found[rows].double())


def test_a_gather_may_repeat_rows_more_often_than_a_batch_has() -> None:
    group = Group(draw([1, 1], torch.float16, GEOMETRIES["narrow"], (8,)), DOWN)
    hidden, weight = torch.randn_like(group.whole), torch.ones_like(group.whole[0])
    rows = torch.arange(5, device=DEVICE) % 2
    found = norm_kernel.gather_rms_norm(hidden, group.whole, rows, weight, EPSILON, group.delta)
    assert_close(found, norm_kernel.gather_rms_norm(hidden, group.expanded, rows, weight, EPSILON).double())


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "geometry"), cases())
def test_rotation(counts: list[int], geometry: PageGeometry, dtype: torch.dtype, has_norm: bool) -> None:
    case = draw(counts, dtype, geometry)
    group, shape = Group(case, QKV), geometry.shape
    num_pages = case.num_rows // geometry.block_size + 2
    slots = torch.randperm(num_pages * geometry.block_size)[: case.num_rows].to(DEVICE)
    heads = (shape.num_heads + shape.num_kv_heads, shape.head_dim)

    def run(qkv: Tensor, delta: LoraDelta | None) -> tuple[Tensor, Tensor]:
        pages = torch.full((num_pages, geometry.page_elements), torch.nan, dtype=dtype, device=DEVICE)
        norm = torch.rand(heads, generator=torch.Generator().manual_seed(1)).to(qkv) if has_norm else None
        return rotate(qkv, slots, pages, geometry, norm, delta), pages

    found, expected = run(group.whole, group.delta), run(group.expanded, None)
    assert_close(found[0], expected[0].double())
    assert torch.equal(found[1].isnan(), expected[1].isnan())
    assert_close(found[1].nan_to_num(), expected[1].nan_to_num().double())


@pytest.mark.parametrize("few", [[1, 1, 3], [1, 2, 3], [8]], ids=["alone", "shared", "one"])
@pytest.mark.parametrize("modules", [GATE_UP, DOWN], ids=["gate_up", "down"])
def test_in_a_batch_with_prompts_those_are_expanded_in_place(modules: tuple[int, ...], few: list[int]) -> None:
    """And adapters of few rows are too, if these are two each or more, on average."""
    geometry, few_rows = GEOMETRIES["narrow"], sum(few)
    group = Group(draw([2, 12, *few, 9, 70], torch.float16, geometry, (8,)), modules, is_decode=False)
    given, hidden = group.whole.clone(), torch.zeros_like(group.whole)
    if modules == GATE_UP:
        found = activation_kernel.silu_mul(group.whole, delta=group.delta)
        expected = activation_kernel.silu_mul(group.expanded)
    else:
        weight = torch.ones(group.whole.shape[1], dtype=torch.float16, device=DEVICE)
        found = norm_kernel.add_rms_norm(hidden, group.whole, weight, EPSILON, delta=group.delta)
        expected = norm_kernel.add_rms_norm(torch.zeros_like(hidden), group.expanded, weight, EPSILON)
    assert_close(found, expected.double())
    for rows, is_expanded in (
        (slice(0, 2), False),
        (slice(2, 14), True),
        (slice(14, 14 + few_rows), few_rows >= 2 * len(few)),
        (slice(14 + few_rows, None), True),
    ):
        assert same_bits(group.whole[rows], (group.expanded if is_expanded else given)[rows])


def test_a_batch_of_few_rows_with_prompts_is_added_to_by_row() -> None:
    """However many share an adapter: nothing is expanded then."""
    group = Group(draw([1, 3, 2], torch.float16, GEOMETRIES["narrow"], (8,)), GATE_UP, is_decode=False)
    given = group.whole.clone()
    found = activation_kernel.silu_mul(group.whole, delta=group.delta)
    assert_close(found, activation_kernel.silu_mul(group.expanded).double())
    assert same_bits(group.whole, given)


@pytest.mark.parametrize("modules", [GATE_UP, DOWN], ids=["gate_up", "down"])
def test_a_batch_with_prompts_of_large_ranks_is_expanded_in_place(
    modules: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_delta, "MOST_RANKS", 0)
    group = Group(draw([2, 12, 1], torch.float16, GEOMETRIES["narrow"]), modules, is_decode=False)
    weight = torch.ones(group.whole.shape[1], dtype=torch.float16, device=DEVICE)
    hidden = torch.zeros_like(group.whole)
    if modules == GATE_UP:
        found = activation_kernel.silu_mul(group.whole, delta=group.delta)
        expected = activation_kernel.silu_mul(group.expanded)
    else:
        found = norm_kernel.add_rms_norm(hidden, group.whole, weight, EPSILON, delta=group.delta)
        expected = norm_kernel.add_rms_norm(hidden.zero_(), group.expanded, weight, EPSILON)
    assert same_bits(found, expected)
    assert same_bits(group.whole, group.expanded)


@pytest.mark.parametrize(("counts", "is_expanded"), [([0, 1, 5, 2], False), ([0, 1, 6, 2], True)], ids=["8", "9"])
def test_few_rows_alone_are_added_to_by_row_if_ranks_are_large(counts: list[int], is_expanded: bool) -> None:
    group = Group(draw(counts, torch.float16, GEOMETRIES["narrow"], (40,)), GATE_UP)
    given = group.whole.clone()
    found = activation_kernel.silu_mul(group.whole, delta=group.delta)
    assert_close(found, activation_kernel.silu_mul(group.expanded).double())
    assert same_bits(group.whole, group.expanded if is_expanded else given)


@pytest.mark.parametrize(
    "limit", [(norm_kernel, "MOST_COLUMNS", 32), (lora_delta, "MOST_RANKS", 23)], ids=["columns", "rows"]
)
def test_what_is_too_large_for_a_norm_is_expanded_first(
    limit: tuple[Any, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*limit)
    group = Group(draw([1, 2], torch.float16, GEOMETRIES["narrow"], (8,)), DOWN)
    hidden, weight = torch.zeros_like(group.whole), torch.ones_like(group.whole[0])
    found = norm_kernel.add_rms_norm(hidden, group.whole, weight, EPSILON, delta=group.delta)
    assert same_bits(found, norm_kernel.add_rms_norm(hidden.zero_(), group.expanded, weight, EPSILON))
    assert same_bits(group.whole, group.expanded)


def test_a_rows_bits_are_its_own() -> None:
    """In decoding: alone, and beside rows of its own adapter and of others."""
    case = draw([0, 1, 1, 1], torch.float16, GEOMETRIES["narrow"], (8, 20))
    alone = None
    for counts in ([0, 1, 0, 0], [2, 3, 1, 1], [20, 12, 3, 7], [50, 9, 4, 1], [150, 9, 4, 1]):
        starts = torch.tensor([sum(counts[: i + 1]) for i in range(4)], dtype=torch.int32, device=DEVICE)
        crowd = replace(case, num_rows=sum(counts), batch=replace(case.batch.with_rows(starts), is_decode=True))
        x, _, _ = crowd.inputs(GATE_UP)
        gate_up = torch.randn(crowd.num_rows, 160).to(x)
        row = counts[0] + counts[1] - 1
        x[row], gate_up[row] = torch.linspace(-1, 1, 48).to(x), torch.linspace(-2, 2, 160).to(x)
        delta = shrink(gate_up.split(80, 1), x, case.pages[0], crowd.batch, layer=0, modules=GATE_UP)
        found = activation_kernel.silu_mul(gate_up, delta=delta)[row]
        alone = found if alone is None else alone
        assert same_bits(found, alone), counts


def test_the_reference_adds_first() -> None:
    case = draw_case(random.Random(1), [2, 3, 1], (2, 8), torch.float32, "cpu", GEOMETRIES["narrow"])
    x, rows, weight = torch.randn(6, 80), torch.tensor([1, 4]), torch.ones(48)

    def began(output: Tensor, modules: tuple[int, ...]) -> LoraDelta:
        widths = [case.shape.out_features(module) for module in modules]
        inputs = x[:, : case.shape.in_features(modules[0])]
        return lora_reference.shrink(
            output.split(widths, 1), inputs, case.pages[0], case.batch, layer=0, modules=modules
        )

    gate_up = torch.randn(6, 160)
    added = gate_up.clone()
    lora_reference.expand(began(added, GATE_UP))
    assert not torch.equal(added, gate_up)
    assert torch.equal(activation.silu_mul(gate_up, delta=began(gate_up, GATE_UP)), activation.silu_mul(added))

    hidden, update = torch.randn(6, 48), torch.randn(6, 48)
    added = update.clone()
    lora_reference.expand(began(added, DOWN))
    wanted = norm.gather_rms_norm(hidden, added, rows, weight, EPSILON)
    given = update.clone()
    assert torch.equal(norm.gather_rms_norm(hidden, given, rows, weight, EPSILON, began(given, DOWN)), wanted)
    given = update.clone()
    assert torch.equal(norm.add_rms_norm(hidden, given, weight, EPSILON, None, began(given, DOWN))[rows], wanted)


@pytest.mark.parametrize("op", ["silu_mul", "add_rms_norm", "gather_rms_norm", "rotate_and_write"])
def test_a_delta_for_something_else_is_named(op: str) -> None:
    case = draw([2, 3], torch.float16, GEOMETRIES["wide"])
    group = Group(case, (2, 1, 0))
    other, weight = group.whole[:, :192].contiguous(), torch.ones(192, dtype=torch.float16, device=DEVICE)
    calls = {
        "silu_mul": lambda: activation_kernel.silu_mul(other, delta=group.delta),
        "add_rms_norm": lambda: norm_kernel.add_rms_norm(other.clone(), other, weight, EPSILON, delta=group.delta),
        "gather_rms_norm": lambda: norm_kernel.gather_rms_norm(
            other, other, torch.zeros(1, dtype=torch.int64, device=DEVICE), weight, EPSILON, group.delta
        ),
        "rotate_and_write": lambda: rope_kernel.rotate_and_write(
            group.whole,
            rope.angles(
                torch.zeros(5, dtype=torch.int64, device=DEVICE), torch.ones(32, device=DEVICE), 1.0, torch.float16
            ),
            case.pages[0],
            torch.zeros(5, dtype=torch.int64, device=DEVICE),
            num_heads=4,
            num_kv_heads=2,
            block_size=16,
            delta=group.delta,
        ),
    }
    before = case.pages.clone()
    with pytest.raises(ValueError, match="delta"):
        calls[op]()
    assert same_bits(case.pages, before)
