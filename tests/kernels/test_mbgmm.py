"""MBGMM over the workload: popularity x batch x rank x dtype, in poisoned pages."""

import gc
import random
import weakref
from dataclasses import replace

import pytest
import torch

from kernels.lora import mbgmm, naive
from tests.kernels.buffers import same_bits
from tests.kernels.lora_cases import GEOMETRY, SHAPE, draw_adapter, draw_case, draw_counts
from tests.kernels.pages import lora_batch, write_adapter
from tests.kernels.tolerances import assert_close
from worker.memory.layout import GROUPS, AdapterLayout

BATCHES = (1, 2, 3, 7, 64, 133)
RANKS = {
    "none": (0,),
    "one": (1,),
    "eight": (8,),
    "mixed": (0, 0, 1, 2, 3, 8, 16, 33, 64),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("num_rows", BATCHES)
@pytest.mark.parametrize("popularity", ["none", "identical", "distinct", "uniform", "zipf"])
def test_follows_the_formula(
    popularity: str, num_rows: int, ranks: str, dtype: torch.dtype, device: torch.device
) -> None:
    rng = random.Random(f"{popularity} {num_rows} {ranks}")
    counts = draw_counts(rng, popularity, num_rows)
    case = draw_case(rng, counts, RANKS[ranks], dtype, device)
    before = case.guarded.clone()
    for index, group in enumerate(GROUPS):
        layer = index % SHAPE.num_layers
        x, fused, outputs = case.inputs(group)
        original = fused.clone()
        expected = naive.mbgmm(outputs, x, case.pages[layer], case.batch, layer=layer, modules=group)
        mbgmm(outputs, x, case.pages[layer], case.batch, layer=layer, modules=group)
        for output, right in zip(outputs, expected, strict=True):
            assert_close(output, right)
        assert same_bits(fused[: counts[0]], original[: counts[0]]), "base-only rows changed"
        assert fused[:, -3:].isnan().all(), "written outside the outputs"
    assert same_bits(case.guarded, before), "the pages changed"


def test_each_row_gets_its_own_adapter(device: torch.device) -> None:
    """Adapter `i` adds exactly `i + 1` to every output, so that any exchange of rows shows."""
    counts = [2, 3, 1, 4]
    layout = AdapterLayout(SHAPE, ((1,) * 7,) * 2, ((1.0,) * 7,) * 2)
    size = layout.num_pages(GEOMETRY)
    pages = torch.full((2, 3 * size, GEOMETRY.page_elements), torch.nan)
    held = [list(range(i * size, (i + 1) * size))[::-1] for i in range(3)]
    for i in range(3):
        ones = {
            (layer, module): (
                torch.full((1, SHAPE.in_features(module)), 1 / SHAPE.in_features(module)),
                torch.full((SHAPE.out_features(module), 1), float(i + 1)),
            )
            for layer in range(2)
            for module in range(7)
        }
        write_adapter(pages, layout, ones, held[i])
    pages = pages.to(device)
    batch = lora_batch([layout] * 3, held, [2, 5, 6, 10], device)
    for group in GROUPS:
        x = torch.ones(10, SHAPE.in_features(group[0]), device=device)
        outputs = [torch.zeros(10, SHAPE.out_features(module), device=device) for module in group]
        mbgmm(outputs, x, pages[1], batch, layer=1, modules=group)
        expected = torch.tensor([0.0] * 2 + [1.0] * 3 + [2.0] + [3.0] * 4, device=device)
        for output in outputs:
            torch.testing.assert_close(output, expected[:, None].expand_as(output), atol=1e-5, rtol=0)
    assert sum(counts) == 10


def test_the_same_tables_over_other_rows(device: torch.device) -> None:
    rng = random.Random(5)
    case = draw_case(rng, [2, 3, 4, 5], RANKS["mixed"], torch.float32, device)
    for starts in ([2, 5, 9, 14], [14, 14, 14, 14], [0, 0, 14, 14], [1, 2, 3, 14]):
        batch = case.batch.with_rows(torch.tensor(starts, dtype=torch.int32, device=device))
        x, _, outputs = case.inputs(GROUPS[0])
        expected = naive.mbgmm(outputs, x, case.pages[0], batch, layer=0, modules=GROUPS[0])
        mbgmm(outputs, x, case.pages[0], batch, layer=0, modules=GROUPS[0])
        for output, right in zip(outputs, expected, strict=True):
            assert_close(output, right)
    assert case.batch.with_rows(batch.row_start).kept is case.batch.kept


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_what_is_kept_of_an_adapter_serves_another_batch(is_shuffled: bool, device: torch.device) -> None:
    """The adapters stay in their pages; in the next batch they stand in another order, and one is missing."""
    rng = random.Random(8)
    adapters = [draw_adapter(rng, (2, 5, 16)) for _ in range(3)]
    size = max(layout.num_pages(GEOMETRY) for layout, _ in adapters)
    pages = torch.full((SHAPE.num_layers, 3 * size, GEOMETRY.page_elements), torch.nan)
    held = [list(range(index * size, (index + 1) * size)) for index in range(3)]
    for (layout, matrices), own in zip(adapters, held, strict=True):
        if is_shuffled:
            rng.shuffle(own)
        write_adapter(pages, layout, matrices, own)
    pages = pages.to(device)
    first = lora_batch([layout for layout, _ in adapters], held, [1, 3, 5, 6], device)
    order = (2, 0)
    again = replace(
        lora_batch([adapters[i][0] for i in order], [held[i] for i in order], [0, 2, 6], device),
        kept=tuple(first.kept[i] for i in order),
    )
    for batch in (first, again):
        for group in GROUPS:
            x = torch.randn(6, SHAPE.in_features(group[0]), device=device)
            outputs = [torch.randn(6, SHAPE.out_features(module), device=device) for module in group]
            expected = naive.mbgmm(outputs, x, pages[1], batch, layer=1, modules=group)
            mbgmm(outputs, x, pages[1], batch, layer=1, modules=group)
            for output, right in zip(outputs, expected, strict=True):
                assert_close(output, right)


def test_what_is_kept_of_tensors_serves_no_others(device: torch.device) -> None:
    """The same tensors come again with new contents, then one is another, then the rows are divided anew."""
    case = draw_case(random.Random(21), [2, 3, 4, 5], RANKS["mixed"], torch.float32, device)
    first, second = (case.inputs(GROUPS[0]) for _ in range(2))
    x, _, outputs = first
    mixed = [outputs[0], second[2][1], outputs[2]]
    turns = [(x, outputs), (x, outputs), (x, mixed), (second[0], mixed), (second[0], second[2]), (x, outputs)]
    for starts in ([2, 5, 9, 14], [1, 1, 8, 14]):
        batch = case.batch.with_rows(torch.tensor(starts, dtype=torch.int32, device=device))
        for rows, columns in turns:
            rows.normal_()
            others = [each for each in (*outputs, *second[2]) if all(each is not column for column in columns)]
            before = [each.clone() for each in others]
            expected = naive.mbgmm(columns, rows, case.pages[0], batch, layer=0, modules=GROUPS[0])
            mbgmm(columns, rows, case.pages[0], batch, layer=0, modules=GROUPS[0])
            for output, right in zip(columns, expected, strict=True):
                assert_close(output, right)
            for other, same in zip(others, before, strict=True):
                assert torch.equal(other, same)


def test_a_prompts_tensors_are_not_held() -> None:
    case = draw_case(random.Random(22), [0, 150, 150], (4,), torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        x, _, outputs = case.inputs((3,))
        mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=(3,))
    held = weakref.ref(x), weakref.ref(outputs[0])
    del x, outputs, _
    gc.collect()
    assert [each() for each in held] == [None, None]


def test_modules_need_not_be_a_whole_group(device: torch.device) -> None:
    """A of q and of v do not lie side by side if k is targeted too."""
    case = draw_case(random.Random(3), [1, 2, 2], (4,), torch.float32, device)
    for modules in ((0, 2), (1,), (2, 0), (5,)):
        x, _, outputs = case.inputs(modules)
        expected = naive.mbgmm(outputs, x, case.pages[1], case.batch, layer=1, modules=modules)
        mbgmm(outputs, x, case.pages[1], case.batch, layer=1, modules=modules)
        for output, right in zip(outputs, expected, strict=True):
            assert_close(output, right)


def test_new_bytes_in_the_same_pages_are_seen(device: torch.device) -> None:
    """What is kept between steps is where the matrices are, never what they hold."""
    case = draw_case(random.Random(11), [0, 2, 2], (4,), torch.float32, device)
    x, _, outputs = case.inputs((3,))
    mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=(3,))
    case.pages.mul_(2.0)
    expected = naive.mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=(3,))
    mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=(3,))
    assert_close(outputs[0], expected[0])


def test_the_same_batch_gives_the_same_bits(device: torch.device) -> None:
    case = draw_case(random.Random(2), [3, 5, 1, 7], RANKS["mixed"], torch.float32, device)
    x, _, outputs = case.inputs(GROUPS[2])
    again = [output.clone() for output in outputs]
    mbgmm(outputs, x, case.pages[0], case.batch, layer=0, modules=GROUPS[2])
    mbgmm(again, x, case.pages[0], case.batch, layer=0, modules=GROUPS[2])
    for first, second in zip(outputs, again, strict=True):
        assert torch.equal(first, second)
