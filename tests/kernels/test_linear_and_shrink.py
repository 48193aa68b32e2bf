"""A linear layer and the shrink of the same rows in one launch."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.device import num_processors
from kernels.launch import launch
from kernels.linear import linear
from kernels.linear.kernel.tiles import MAX_ROWS
from kernels.lora import LoraDelta, expand, kernel, linear_and_shrink, mbgmm
from kernels.lora.kernel import hopper
from kernels.lora.kernel.tiling import ADDED_ROWS
from tests.kernels.buffers import DEVICE, DTYPES, same_bits
from tests.kernels.lora_cases import Case, draw_case, plans
from tests.kernels.recording import recorded
from tests.kernels.tolerances import assert_close
from worker.memory.layout import GROUPS, ModelShape, PageGeometry

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
HALVES = [pytest.param(DTYPES[name], marks=ON_GPU) for name in ("bf16", "fp16")]
# Inputs of a round and of two and a half; of four rounds and of fourteen, which are two to a piece; of half a round; of
# more than a page.
GEOMETRIES = {
    "small": PageGeometry(ModelShape(2, 1024, 8, 4, 128, 2560), 16),
    "llama-3-8b": PageGeometry(ModelShape(1, 4096, 32, 8, 128, 14336), 16),
    "short": PageGeometry(ModelShape(1, 512, 4, 2, 128, 768), 16),
    "long": PageGeometry(ModelShape(1, 1024, 8, 2, 128, 2560), 4),
}
RANKS = (0, 0, 1, 3, 8, 16, 33, 64, 100)
# Rows of the base model, then of each adapter.
COUNTS = [
    [0, 1],
    [1, 0, 1, 5],
    [0, *[1] * 8],
    [3, 8, 9, 0, 12],
    [0, 32],
    [5, 59],
    [0, *[1] * 64],
    [1, *[2] * 10, 17, 1, 8, 9],
    [16, 0],
    [0, *[0, 1] * 40],
]
LEAST = 1024  # columns that the kernel takes of up to 32 rows, and four times as many of more


class Layer:
    """One group's linear layer, and where its outputs go."""

    def __init__(self, case: Case, group: tuple[int, ...], *, has_bias: bool) -> None:
        self.case, self.group = case, group
        self.layer = case.pages.shape[0] - 1
        self.x, self.around, self.outputs = case.inputs(group)
        self.out = self.around[:, :-3]
        width, length = self.out.shape[1], self.x.shape[1]
        self.weight = (torch.randn(width, length) * length**-0.5).to(self.x)
        self.bias = torch.randn(width).to(self.x) if has_bias else None

    def align(self) -> None:
        """Rows of outputs begin where TMA takes them."""
        widths = [output.shape[1] for output in self.outputs]
        self.around = torch.full((self.x.shape[0], sum(widths) + 8), torch.nan).to(self.x)
        self.out = self.around[:, :-8]
        self.outputs = self.out.split(widths, 1)

    def forget(self) -> None:
        """What was left for an expand."""
        for plan in plans(self.case.batch):
            plan.bridge.fill_(torch.nan)

    def run(self, op: Callable[..., LoraDelta | None] = linear_and_shrink) -> None:
        arguments = (self.x, self.weight, self.out, self.bias, self.outputs, self.case.pages[self.layer])
        delta = op(*arguments, self.case.batch, layer=self.layer, modules=self.group)
        assert delta is not None
        (kernel.expand if op is kernel.linear_and_shrink else expand)(delta)

    def run_in_turn(self, op: Callable[..., None] = mbgmm) -> None:
        linear(self.x, self.weight, self.out, self.bias)
        op(self.outputs, self.x, self.case.pages[self.layer], self.case.batch, layer=self.layer, modules=self.group)

    def run_both(self) -> tuple[Tensor, Tensor]:
        """What the outputs become, and become in turn."""
        self.run()
        found = self.out.clone()
        self.run_in_turn()
        return found, self.out.clone()

    @property
    def is_taken(self) -> bool:
        """Whether the kernel is for it."""
        return self.out.shape[1] >= (LEAST if self.x.shape[0] <= 32 else 4 * LEAST)


def note_launches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with the kernels of linear layers that also shrink or expand, as they are launched."""
    launched = []

    def noted(*arguments: Any, **options: Any) -> None:
        launched.append(arguments[0])
        launch(*arguments, **options)

    monkeypatch.setattr(hopper, "launch", noted)
    return launched


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_both_have_the_bits_that_they_have_in_turn(
    counts: list[int], geometry: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = draw_case(random.Random(f"{counts}"), counts, RANKS, dtype, DEVICE, GEOMETRIES[geometry])
    launched = note_launches(monkeypatch)
    before, taken = case.guarded.clone(), 0
    for group in GROUPS:
        layer = Layer(case, group, has_bias=geometry == "small")
        layer.run_in_turn()
        in_turn = layer.out.clone()
        for batch in (case.batch, case.batch.with_rows(case.batch.row_start)):  # with the same plan, and a new one
            layer.out.fill_(torch.nan)
            layer.case = replace(case, batch=batch)
            layer.forget()
            layer.run()
            assert same_bits(layer.out, in_turn), group
            assert layer.around[:, -3:].isnan().all()
            taken += layer.is_taken
    assert len(launched) == taken, "in one launch"
    assert same_bits(case.guarded, before), "the pages changed"


MANY = [  # rows of the base model, then of each adapter
    [5, 2060, 9],
    [0, 63, 64, 65, 1, 1, 1900, 3, 128, 30, 0, 200],
    [3000, 0],
    [1, *[300, 1, 70] * 8],
    [0, *[1] * 1900, 170],
]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("geometry", ["small", "llama-3-8b"])
@pytest.mark.parametrize("counts", MANY, ids=lambda counts: str(counts[:8]))
def test_with_many_rows_the_linear_layer_adds_what_adapters_of_many_have(
    counts: list[int], geometry: str, dtype: torch.dtype
) -> None:
    case = draw_case(random.Random(f"{counts}"), counts, RANKS, dtype, DEVICE, GEOMETRIES[geometry])
    before = case.guarded.clone()
    is_left = torch.tensor([i == 0 or count < ADDED_ROWS for i, count in enumerate(counts)], device=DEVICE)
    is_left = is_left.repeat_interleave(torch.tensor(counts, device=DEVICE))
    for group in GROUPS:
        layer = Layer(case, group, has_bias=geometry == "small")
        layer.align()
        given = (layer.x, layer.weight, layer.out)
        assert hopper.adds_shares(*given, layer.outputs, case.pages[layer.layer], case.batch)
        if len(group) > 1:
            assert not hopper.adds_shares(*given, layer.outputs[1:], case.pages[layer.layer], case.batch)
        found, in_turn = layer.run_both()
        assert layer.around[:, -8:].isnan().all()
        assert_close(found, in_turn.double())
        layer.run()
        assert same_bits(layer.out, found)
        layer.weight.zero_()
        found, in_turn = layer.run_both()
        assert same_bits(in_turn[is_left], found[is_left]), "what expands add"
    assert same_bits(case.guarded, before), "the pages changed"


SOME_HUNDRED = [  # rows of the base model, then of each adapter
    [5, 60],
    [0, *[1] * 100],
    [0, 128],
    [1, 70, 3, 8, 9, 0, 55],
    [200, 1],
    [0, *[2] * 150, 17, 90],
    [40, 1000, *[1] * 500, 8],
]


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        pytest.param("small", torch.float16, marks=ON_GPU),
        pytest.param("llama-3-8b", torch.bfloat16, marks=ON_GPU),
        pytest.param("long", torch.bfloat16, marks=ON_GPU),
    ],
)
@pytest.mark.parametrize("processors", [None, 9])
@pytest.mark.parametrize("counts", SOME_HUNDRED, ids=lambda counts: str(counts[:8]))
def test_with_some_hundred_rows_processors_apart_shrink(
    counts: list[int], geometry: str, processors: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few processors all have tiles of the product, and their shares of the shrink after it."""
    case = draw_case(random.Random(f"{counts}"), counts, RANKS, dtype, DEVICE, GEOMETRIES[geometry])
    case = replace(case, batch=replace(case.batch, is_decode=True))
    launched = note_launches(monkeypatch)
    monkeypatch.setattr(hopper, "pays_apart", lambda *_: True)
    if processors is not None:
        monkeypatch.setattr(hopper, "num_processors", lambda _: processors)
    before = case.guarded.clone()
    for group in GROUPS:
        layer = Layer(case, group, has_bias=geometry == "small")
        layer.align()
        for _ in range(3):  # with the same plan, whose flags are as before
            layer.x.normal_()
            found, in_turn = layer.run_both()
            assert layer.around[:, -8:].isnan().all()
            assert_close(found, in_turn.double())
            layer.forget()
            layer.run()
            assert same_bits(layer.out, found)
        layer.weight.zero_()
        found, in_turn = layer.run_both()
        assert same_bits(in_turn, found), "what the shrinks leave"
    assert len(launched) == 7 * len(GROUPS)
    assert set(launched) == {hopper.linear_and_shrink_apart}
    assert not any(plan.flags.any() for plan in plans(case.batch)), "set between launches"
    assert same_bits(case.guarded, before), "the pages changed"


PAYS = [  # rows, inputs, outputs and modules of a layer of Llama-3-8B or Llama-7B, and what was faster on an H200
    (96, 4096, 6144, 3, True),
    (128, 4096, 6144, 3, True),
    (256, 4096, 6144, 3, True),
    (1000, 4096, 6144, 3, True),
    (96, 4096, 4096, 1, True),
    (128, 4096, 4096, 1, True),
    (384, 4096, 4096, 1, True),
    (96, 4096, 28672, 2, False),
    (128, 4096, 28672, 2, True),
    (192, 4096, 28672, 2, False),
    (256, 4096, 28672, 2, True),
    (320, 4096, 28672, 2, False),
    (1000, 4096, 28672, 2, True),
    (192, 14336, 4096, 1, True),
    (256, 14336, 4096, 1, True),
    (384, 14336, 4096, 1, True),
    (512, 14336, 4096, 1, True),
    (640, 14336, 4096, 1, False),
    (896, 14336, 4096, 1, True),
    (128, 4096, 12288, 3, True),
    (320, 4096, 12288, 3, False),
    (512, 4096, 12288, 3, True),
]


@pytest.mark.parametrize(("num_rows", "in_features", "out_features", "num_modules", "pays"), PAYS)
def test_processors_apart_shrink_where_that_was_faster(
    num_rows: int, in_features: int, out_features: int, num_modules: int, pays: bool
) -> None:
    assert hopper.pays_apart(num_rows, in_features, out_features, num_modules, processors=132) == pays


@pytest.mark.parametrize(
    ("is_decode", "max_rank", "is_apart"), [(True, 64, True), (False, 64, False), (False, 16, True)]
)
@pytest.mark.parametrize("dtype", HALVES)
def test_prompts_of_many_ranks_do_not_shrink_apart(
    dtype: torch.dtype, is_decode: bool, max_rank: int, is_apart: bool
) -> None:
    case = draw_case(random.Random(1), [12, 500], (max_rank,), dtype, DEVICE, GEOMETRIES["llama-3-8b"])
    layer = Layer(case, GROUPS[0], has_bias=False)
    layer.align()
    batch = replace(case.batch, is_decode=is_decode)
    assert hopper.shrinks_apart(layer.x, layer.weight, layer.out, case.pages[0], batch, 3) == is_apart
    assert not hopper.shrinks_apart(layer.x[:64], layer.weight, layer.out[:64], case.pages[0], batch, 3)
    apart = layer.x[:, :-8]
    assert not hopper.shrinks_apart(apart, layer.weight[:, :-8], layer.out, case.pages[0], batch, 3)


def test_programs_that_share_a_tile_are_all_there() -> None:
    """They wait for each other, so there is a processor for each."""
    for processors in (1, 2, 7, 78, 132):
        for num_rows in range(65, 2049, 31):
            for out_features in (64, 192, 576, 1000, 4096, 6144, 28672):
                num_turns, num_shares = hopper.turns_and_shares(num_rows, out_features, processors)
                num_tiles = -(-num_rows // 128) * -(-out_features // 128)
                assert num_shares in (1, 2)
                assert num_turns * processors >= num_tiles
                if num_shares == 2:
                    assert num_turns == 1
                    assert 2 * num_tiles <= processors


OTHER_OWNERS = {
    "linear_and_expand": [[2000, 70, 70, 4], [0, 100, 1974, 70], [70, 1, 2072, 1], [2144, 0, 0, 0], [0, 700, 722, 722]],
    "linear_and_shrink_apart": [[200, 40, 9, 7], [0, 1, 254, 1], [256, 0, 0, 0], [0, 85, 86, 85]],
}
REPLAYED = [("linear_and_expand", 2), ("linear_and_shrink_apart", 2), ("linear_and_shrink_apart", 3)]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("launches", "group"), REPLAYED)
def test_a_graph_of_many_rows_replays_with_other_owners(
    launches: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs have a tile or more each of gate and up, and share those of down."""
    others = OTHER_OWNERS[launches]
    case = draw_case(random.Random(3), others[0], RANKS, torch.bfloat16, DEVICE, GEOMETRIES["small"])
    case = replace(case, batch=replace(case.batch, is_decode=launches == "linear_and_shrink_apart"))
    layer = Layer(case, GROUPS[group], has_bias=False)
    layer.align()
    launched = note_launches(monkeypatch)
    layer.run()
    assert launched == [getattr(hopper, launches)]
    case.batch.plans.clear()
    with recorded(layer.run) as graph:
        kept = dict(case.batch.plans)
        for counts in others:
            starts = torch.tensor([sum(counts[: i + 1]) for i in range(4)], dtype=torch.int32, device=DEVICE)
            case.batch.row_start.copy_(starts)
            layer.out.fill_(torch.nan)
            layer.x.normal_()
            graph.replay()
            replayed = layer.out.clone()
            assert not any(plan.flags.any() for plan in plans(case.batch)), "set between launches"
            case.batch.plans.clear()
            layer.run()
            assert same_bits(layer.out, replayed), counts
            case.batch.plans.update(kept)


@pytest.mark.parametrize("astray", [pytest.param(count, marks=ON_GPU) for count in (1, 100, 131)])
def test_programs_that_wait_in_vain_go_on(astray: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With counts of arrivals that are no multiple of the programs some wait for more than come."""
    case = draw_case(random.Random(3), [2000, 70, 70, 4], RANKS, torch.bfloat16, DEVICE, GEOMETRIES["small"])
    layer = Layer(case, GROUPS[2], has_bias=False)
    layer.align()
    launched = note_launches(monkeypatch)
    layer.run()
    assert launched == [hopper.linear_and_expand]
    in_step = layer.out.clone()
    arrivals, processors = hopper.arrivals_of(layer.x.device), num_processors(layer.x.device)
    assert arrivals.item() > 0
    assert arrivals.item() % processors == 0
    try:
        arrivals.fill_(astray)
        layer.out.fill_(torch.nan)
        layer.run()
        assert same_bits(layer.out, in_step)
        assert arrivals.item() % processors == astray
    finally:
        arrivals.zero_()


@pytest.mark.parametrize("num_rows", [pytest.param(rows, marks=ON_GPU) for rows in (5, 40, 100)])
def test_a_chain_in_a_graph_replays_with_other_inputs(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "pays_apart", lambda *_: True)
    case = draw_case(
        random.Random(2), [1, *[1] * (num_rows - 1)], RANKS, torch.bfloat16, DEVICE, GEOMETRIES["llama-3-8b"]
    )
    case = replace(case, batch=replace(case.batch, is_decode=True))
    layers = [Layer(case, group, has_bias=False) for group in GROUPS]
    is_apart = num_rows > MAX_ROWS
    if is_apart:
        for layer in layers:
            layer.align()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for layer in layers:
            layer.run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        for layer in layers * 2:
            layer.run()
        graph.capture_end()
        for _ in range(20):
            for layer in layers:
                layer.x.normal_()
            graph.replay()
            replayed = [layer.out.clone() for layer in layers]
            for layer in layers:
                layer.forget()
            for layer, out in zip(layers, replayed, strict=True):
                if is_apart:  # with other bits than in turn
                    layer.run()
                else:
                    layer.run_in_turn()
                assert same_bits(layer.out, out)


@pytest.mark.parametrize("counts", [[1, 2, 1], [0, 12, 3]], ids=str)
def test_shapes_that_the_kernel_does_not_take_are_taken_in_turn(counts: list[int]) -> None:
    """In Triton's interpreter too, as on a GPU that is no Hopper."""
    case = draw_case(random.Random(1), counts, (8, 3), torch.float16, DEVICE)
    for group in GROUPS:
        layer = Layer(case, group, has_bias=True)
        layer.run_in_turn(kernel.mbgmm)
        in_turn = layer.out.clone()
        layer.out.fill_(torch.nan)
        layer.forget()
        layer.run(kernel.linear_and_shrink)
        assert same_bits(layer.out, in_turn)
