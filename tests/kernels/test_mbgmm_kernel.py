"""The Triton kernels of MBGMM: on a GPU where there is one, else in Triton's interpreter."""

import random
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.chain import resident
from kernels.lora import LoraBatch, naive
from kernels.lora.kernel import mbgmm, shrink, tiling
from tests.kernels.buffers import same_bits
from tests.kernels.lora_cases import Case, draw_case, draw_counts, plans
from tests.kernels.tolerances import assert_close
from worker.memory.layout import GROUPS, ModelShape, PageGeometry

lora_kernel = import_module("kernels.lora.kernel")
expand_kernel = import_module("kernels.lora.kernel.expand")  # the package's attribute of this name is its function
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
# The interpreter takes bfloat16 for integers in products.
DTYPES = [
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.bfloat16, id="bf16", marks=ON_GPU),
]
RANKS = (0, 0, 1, 3, 8, 16, 33, 64, 100, 256) if DEVICE == "cuda" else (0, 0, 1, 3, 8, 16, 17, 40)
# What no page border cuts: 64 elements, 16 and odd widths, 8, and none but an element. Rows of "short" lie in up to
# three pages, some of "shorter" in more.
GEOMETRIES = {
    "wide": PageGeometry(ModelShape(2, 192, 3, 1, 64, 448), 16),
    "short": PageGeometry(ModelShape(2, 192, 3, 1, 64, 448), 2),
    "shorter": PageGeometry(ModelShape(2, 192, 3, 1, 64, 448), 1),
    "narrow": PageGeometry(ModelShape(2, 48, 4, 2, 8, 80), 4),
    "eight": PageGeometry(ModelShape(2, 40, 5, 1, 8, 72), 4),
    "odd": PageGeometry(ModelShape(2, 39, 3, 1, 13, 27), 3),
}
LLAMA_8B = PageGeometry(ModelShape(1, 4096, 32, 8, 128, 14336), 16)


def draw(
    counts: list[int],
    dtype: torch.dtype = torch.float16,
    geometry: PageGeometry = GEOMETRIES["wide"],
    ranks: tuple[int, ...] = RANKS,
) -> Case:
    return draw_case(random.Random(f"{counts}"), counts, ranks, dtype, DEVICE, geometry)


def run(case: Case, group: Sequence[int], layer: int = 1) -> list[Tensor]:
    """Compares one call with the formula and with what must not change; gives the outputs."""
    group = tuple(group)
    before = case.guarded.clone()
    x, fused, outputs = case.inputs(group)
    original = fused.clone()
    expected = naive.mbgmm(outputs, x, case.pages[layer], case.batch, layer=layer, modules=group)
    mbgmm(outputs, x, case.pages[layer], case.batch, layer=layer, modules=group)
    for output, right in zip(outputs, expected, strict=True):
        assert_close(output, right)
    first, last = int(case.batch.row_start[0]), int(case.batch.row_start[-1])
    for rows in (slice(0, first), slice(last, None)):
        assert same_bits(fused[rows], original[rows]), "rows without an adapter changed"
    assert fused[:, -3:].isnan().all(), "written outside the outputs"
    assert same_bits(case.guarded, before), "the pages changed"
    return outputs


@pytest.fixture(params=[8, 64], ids=["both_shrinks", "small"])
def both_shrinks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of how many rows an adapter is that MBGMV shrinks, at most: with eight MBGMM shrinks in small batches, too."""
    monkeypatch.setattr(tiling, "SHRUNK_FEW", {tiling.SPLIT_ROWS: request.param})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 33, 133, pytest.param(512, marks=ON_GPU)])
@pytest.mark.parametrize("popularity", ["none", "identical", "uniform", "zipf", "distinct"])
def test_batches(popularity: str, num_rows: int, dtype: torch.dtype) -> None:
    if DEVICE == "cpu" and popularity == "distinct":
        num_rows = min(num_rows, 9)  # the interpreter is slow
    case = draw(draw_counts(random.Random(num_rows), popularity, num_rows), dtype)
    groups = GROUPS if DEVICE == "cuda" else GROUPS[num_rows % 3 : num_rows % 3 + 1]
    for group in groups:
        run(case, group)


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 64, 100, 256])
def test_ranks(rank: int, both_shrinks: None) -> None:
    run(draw([1, 2, 10], ranks=(rank,)), GROUPS[1])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_pages_of_any_size(geometry: str, group: tuple[int, ...], both_shrinks: None) -> None:
    run(draw([2, 3, 12, 1], torch.float32, GEOMETRIES[geometry], (0, 1, 5, 20, 40)), group)


@pytest.mark.parametrize("modules", [(0, 2), (1,), (2, 0), (4,), (1, 2, 0)], ids=str)
def test_modules_need_not_be_a_whole_group(modules: tuple[int, ...], both_shrinks: None) -> None:
    run(draw([1, 2, 10], ranks=(4, 20)), modules)


def add_in_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of large batches as they are where the linear layer adds what adapters of many rows have."""
    tiles_of = tiling.Tiling.of
    monkeypatch.setattr(
        tiling.Tiling, "of", lambda *given, **options: tiles_of(*given, **{**options, "beside": tiling.Beside.ADDS})
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("linear_adds", [False, True])
def test_prompts_fill_the_gpu_without_splitting_the_inputs(
    linear_adds: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "SPLIT_ROWS", 100)
    if linear_adds:
        add_in_linears(monkeypatch)
    for group in (*GROUPS[:2], GROUPS[3]):
        run(draw([3, 130, 5, 0, 8, 9], dtype), group)


@pytest.mark.parametrize(
    ("shrunk_few", "split_rows", "linear_adds"),
    [(8, 8, False), (8, 8, True), (8, 100, False), (64, 100, False)],
    ids=["whole", "whole, few", "split", "small"],
)
@pytest.mark.parametrize("counts", [[1, 2, 1], [0, 3, 12, 1], [0, *[1] * 9]], ids=str)
def test_pieces_of_several_rounds(
    counts: list[int], shrunk_few: int, split_rows: int, linear_adds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with inputs that are longer than the interpreter has the patience for."""
    if linear_adds:
        add_in_linears(monkeypatch)
    monkeypatch.setattr(tiling, "SHRUNK_FEW", {100: shrunk_few})
    monkeypatch.setattr(tiling, "SPLIT_ROWS", split_rows)
    for most in (1, 2):
        monkeypatch.setattr(tiling, "MAX_PIECES", most)
        for geometry in (PageGeometry(ModelShape(2, 272, 3, 1, 16, 336), 16), GEOMETRIES["odd"]):
            run(draw(counts, geometry=geometry), GROUPS[3])
            run(draw(counts, geometry=geometry), GROUPS[0])


@pytest.mark.parametrize("most", [1, 3, 8])
@pytest.mark.parametrize("dtype", [DTYPES[0], DTYPES[2]])
def test_rows_of_few_have_the_same_bits_where_the_linear_layer_adds(
    dtype: torch.dtype, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though in large batches a program of a shrink adds its pieces itself."""
    monkeypatch.setattr(tiling, "MAX_PIECES", most)
    geometry = PageGeometry(ModelShape(2, 272, 3, 1, 16, 1336), 16)
    for group in (GROUPS[0], GROUPS[3]):
        case = draw([2, 3, 1, 8, 5, 30], dtype, geometry, (1, 3, 16, 17, 40, 0))
        x, _, outputs = case.inputs(group)
        found = []
        for is_large in (False, True):
            with monkeypatch.context() as patch:
                if is_large:
                    patch.setattr(tiling, "SPLIT_ROWS", 8)
                    add_in_linears(patch)
                case.batch.plans.clear()
                found.append([torch.zeros_like(output) for output in outputs])
                mbgmm(found[-1], x, case.pages[1], case.batch, layer=1, modules=group)
                assert [plan.tiling.is_split for plan in plans(case.batch)] == [not is_large]
        for small, large in zip(*found, strict=True):
            assert same_bits(small, large)


@pytest.mark.parametrize(("num_rows", "few"), [(64, 64), (65, 32), (512, 32), (513, 8), (2048, 8), (2049, 0)])
def test_larger_batches_leave_more_adapters_to_mbgmm(num_rows: int, few: int) -> None:
    directory = draw([1]).batch.directory
    assert tiling.Tiling.of(num_rows, 1, directory).shrink_few == few
    if num_rows <= tiling.SPLIT_ROWS:
        apart = [tiling.Tiling.of(rows, 1, directory, beside=tiling.Beside.SHRINKS) for rows in (num_rows, 100)]
        assert apart[0] == apart[1], "or the plan would be compiled for every number of rows"
        assert apart[0].shrink_few >= num_rows


@pytest.mark.parametrize("most", [1, 8])
def test_a_span_in_two_steps(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large batches, where no page border cuts one."""
    monkeypatch.setattr(tiling, "SPLIT_ROWS", 8)
    monkeypatch.setattr(tiling, "MAX_PIECES", most)
    for group in (GROUPS[0], GROUPS[3]):
        case = draw([0, 3, 70, 1], geometry=PageGeometry(ModelShape(2, 256, 2, 2, 128, 1792), 16))
        run(case, group)
        assert [plan.tiling.shrink_steps for plan in plans(case.batch)] == [2]


def test_modules_that_no_live_adapter_targets_launch_nothing() -> None:
    case = draw([0, 2, 1], ranks=(0,))
    batch = replace(case.batch, modules=frozenset(GROUPS[0] + GROUPS[1]))
    x, _, outputs = case.inputs(GROUPS[2])
    assert shrink(outputs, x, case.pages[0], batch, layer=0, modules=GROUPS[2]) is None
    mbgmm(outputs, x, case.pages[0], batch, layer=0, modules=GROUPS[2])
    assert not plans(batch)


@pytest.mark.parametrize(
    "counts", [[0, 1, 8, 3, 1, 2], [2, 9, 1, 40, 8], [0, 9, 40]], ids=["few_rows", "both", "many_rows"]
)
@pytest.mark.parametrize("group", [GROUPS[0], GROUPS[1]], ids=str)
@pytest.mark.parametrize("dtype", [DTYPES[0], DTYPES[2]])
def test_every_tile_has_one_program(
    dtype: torch.dtype, group: tuple[int, ...], counts: list[int], both_shrinks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of adapters whose tiles cost more and less, whether programs have many tiles or none."""
    case = draw(counts, dtype, PageGeometry(ModelShape(2, 1104, 3, 1, 64, 448), 16), (3, 16, 17, 40, 70, 0))
    x, _, outputs = case.inputs(group)
    shares = []
    _, expand_options = expand_kernel._options(x.device, has_few=True, ranks=64)
    for num in (1, 3, 50, 400):
        monkeypatch.setattr(lora_kernel, "resident", lambda *a, num=num, **b: (num, resident(*a, **b)[1]))
        monkeypatch.setattr(expand_kernel, "_options", lambda *_, num=num, **__: (num, expand_options))
        share = [torch.zeros_like(output) for output in outputs]
        for plan in plans(case.batch):
            plan.bridge.fill_(torch.nan)  # or what the programs before left there would do
        mbgmm(share, x, case.pages[1], case.batch, layer=1, modules=group)
        shares.append(share)
    expected = naive.mbgmm(
        [torch.zeros_like(output) for output in outputs], x, case.pages[1], case.batch, layer=1, modules=group
    )
    for share in shares:
        for output, first, right in zip(share, shares[0], expected, strict=True):
            assert torch.equal(output, first)
            assert_close(output, right)


def test_capacity_that_is_not_used(both_shrinks: None) -> None:
    """As in a CUDA graph: adapters that own no row, and rows after the last adapter's."""
    case = draw([2, 1, 12, 0, 0, 0])
    idle = replace(case, num_rows=20)
    for group in GROUPS[:2]:
        run(idle, group)
    assert not any(plan.starts[:, :4, 3:].diff(dim=-1).any() for plan in plans(case.batch))


def test_tables_of_all_layers_are_aligned_alike() -> None:
    """For an address that is no multiple of 16 bytes a kernel is compiled again."""
    case = draw([2, 1, 12])
    for group in GROUPS[:2]:
        run(case, group)
    tables = [table for plan in plans(case.batch) for table in (*plan.starts, *plan.records)]
    assert len(tables) > 4, "of two groups, in more than one layer"
    assert not any(table.data_ptr() % 16 for table in tables)


def test_nothing_is_read_that_was_not_written(both_shrinks: None) -> None:
    case = draw([1, 9, 2])
    run(case, GROUPS[0])
    for plan in plans(case.batch):
        plan.bridge.fill_(torch.nan)
    run(case, GROUPS[0])


def test_the_same_batch_gives_the_same_bits(both_shrinks: None) -> None:
    case = draw([1, 1, 8, 20, 3])
    x, _, outputs = case.inputs(GROUPS[0])
    again = [output.clone() for output in outputs]
    for tensors in (outputs, again):
        mbgmm(tensors, x, case.pages[0], case.batch, layer=0, modules=GROUPS[0])
    assert all(torch.equal(first, second) for first, second in zip(outputs, again, strict=True))


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float16, marks=ON_GPU), pytest.param(torch.bfloat16, marks=ON_GPU)], ids=str
)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_rows_bits_are_its_own(group: tuple[int, ...], dtype: torch.dtype) -> None:
    """Whatever else is in the batch, and however many rows of its own adapter, which choose the kernel's regime."""
    small = ([0, 1, 0, 0], [0, 5, 0, 0], [3, 9, 4, 1])
    crowds = (*small, [0, 20, 60, 1], [0, 70, 64, 1], [300, 500, 7, 200], [9, 2100, 3, 1])
    for geometry in (GEOMETRIES["wide"], LLAMA_8B):
        case = draw([0, 1, 1, 1], dtype, geometry, (3, 16, 64))
        alone: list[Tensor] = []
        x, _, outputs = replace(case, num_rows=1).inputs(group)
        for counts in crowds:
            starts = torch.tensor([sum(counts[: i + 1]) for i in range(4)], dtype=torch.int32, device=DEVICE)
            crowd = replace(case, num_rows=sum(counts), batch=case.batch.with_rows(starts))
            others, _, theirs = crowd.inputs(group)
            row = counts[0] + counts[1] // 2
            others[row] = x[0]
            for mine, output in zip(theirs, outputs, strict=True):
                mine[row] = output[0]
            mbgmm(theirs, others, case.pages[0], crowd.batch, layer=0, modules=group)
            rows = [mine[row].clone() for mine in theirs]
            alone = alone or rows
            for index, (mine, first) in enumerate(zip(rows, alone, strict=True)):
                assert torch.equal(mine, first), f"module {group[index]} in {counts}"


@pytest.mark.parametrize("num_rows", [pytest.param(rows, marks=ON_GPU) for rows in (8, 64, 2048, 4096)])
def test_a_graph_replays_with_other_adapters(num_rows: int) -> None:
    """One capture serves other adapters in other slots, fewer of them, and another division of the rows."""
    case = draw([0, *[1] * 12], torch.bfloat16, ranks=(0, 3, 8, 16, 64))
    case = replace(case, num_rows=num_rows)
    slots, rng = case.batch.slots.clone(), random.Random(5)
    static = LoraBatch(torch.zeros(13, dtype=torch.int32, device=DEVICE), slots.clone(), case.batch.directory)
    group = GROUPS[0]
    x, fused, outputs = case.inputs(group)
    mbgmm(outputs, x, case.pages[0], static.with_rows(static.row_start), layer=0, modules=group)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(2):
            mbgmm(outputs, x, case.pages[layer], static, layer=layer, modules=group)
    for _ in range(8):
        live = rng.sample(range(12), rng.randint(0, 12))
        starts = sorted(rng.choices(range(num_rows + 1), k=len(live) + 1))
        static.row_start.copy_(torch.tensor(starts + starts[-1:] * (12 - len(live))))
        static.slots[: len(live)] = slots[live]
        x.copy_(torch.randn(x.shape))
        fused[:, :-3] = torch.randn(num_rows, fused.shape[1] - 3).to(fused)
        expected = [output.double() for output in outputs]
        for layer in range(2):
            expected = naive.mbgmm(expected, x, case.pages[layer], static, layer=layer, modules=group)
        graph.replay()
        for output, right in zip(outputs, expected, strict=True):
            assert_close(output, right)


@pytest.mark.parametrize("counts", [pytest.param(counts, marks=ON_GPU) for counts in ([0, 1], [0, 100])], ids=str)
def test_pages_beyond_32_bits(counts: list[int]) -> None:
    case = draw(counts, torch.bfloat16, LLAMA_8B, (16,))
    num_pages = 2**32 // case.pages.shape[2] + case.pages.shape[1]
    pages = torch.full((num_pages, case.pages.shape[2]), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    pages[-case.pages.shape[1] :] = case.pages[0]
    directory = case.batch.directory
    table = torch.where(directory.page_table < 0, -1, directory.page_table + num_pages - case.pages.shape[1]).int()
    far = replace(case.batch, directory=replace(directory, page_table=table))
    for group in GROUPS:
        x, _, outputs = case.inputs(group)
        near = [output.clone() for output in outputs]
        mbgmm(near, x, case.pages[0], case.batch, layer=0, modules=group)
        mbgmm(outputs, x, pages, far, layer=0, modules=group)
        assert all(torch.equal(first, second) for first, second in zip(near, outputs, strict=True))


def test_no_rows_and_no_adapters() -> None:
    case = draw([0, 0])
    x, _, outputs = case.inputs(GROUPS[0])
    mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=GROUPS[0])
    nobody = LoraBatch(case.batch.row_start[:1], case.batch.slots[:0], case.batch.directory)
    mbgmm(outputs, x, case.pages[0], nobody, layer=0, modules=GROUPS[0])
    assert not plans(nobody)


def bad_arguments() -> dict[str, dict[str, Any]]:
    case = draw([1, 2])
    x, _, outputs = case.inputs(GROUPS[0])
    directory = case.batch.directory

    def with_directory(**changes: Any) -> LoraBatch:
        return replace(case.batch, directory=replace(directory, **changes))

    return {
        "x": {"x": x.T},
        "outputs[1]": {"outputs": [outputs[0], outputs[1].float(), outputs[2]]},
        "outputs[2]": {"outputs": [*outputs[:2], outputs[2][1:]]},
        "outputs: one": {"outputs": outputs[:2]},
        "pages": {"pages": case.pages[0].T},
        "layer": {"layer": 2},
        "modules": {"modules": (0, 1, 7)},
        "batch.row_start": {"batch": case.batch.with_rows(case.batch.row_start.long())},
        "batch.slots": {"batch": replace(case.batch, slots=case.batch.slots.long())},
        "batch.directory.places": {"batch": with_directory(places=directory.places[..., :2])},
        "batch.directory.scales": {"batch": with_directory(scales=directory.scales[:, :, :3])},
        "batch.directory.page_table": {"batch": with_directory(page_table=directory.page_table.long())},
        "batch.directory.chunk_elements": {"batch": with_directory(chunk_elements=0)},
        "batch.directory.max_rank": {"batch": with_directory(max_rank=-1)},
    }


@pytest.mark.parametrize("name", bad_arguments())
def test_a_bad_argument_is_named(name: str) -> None:
    case = draw([1, 2])
    x, fused, outputs = case.inputs(GROUPS[0])
    before = fused.clone()
    good = {
        "outputs": outputs,
        "x": x,
        "pages": case.pages[0],
        "batch": case.batch,
        "layer": 0,
        "modules": GROUPS[0],
    }
    with pytest.raises(ValueError, match=name.replace("[", r"\[").replace("]", r"\]")):
        mbgmm(**(good | bad_arguments()[name]))
    assert same_bits(fused, before)
