"""Kernels that add adapters' shares keep to the adapters' pages and to the rows they are given: all around is NaN."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.activation import kernel as activation_kernel
from kernels.lora import LoraDelta, naive
from kernels.lora.kernel import delta as lora_delta
from kernels.lora.kernel import expand, shrink, tiling
from kernels.norm import kernel as norm_kernel
from tests.kernels.buffers import DEVICE, poisoned, same_bits, untouched
from tests.kernels.lora_cases import Case, draw_case
from tests.kernels.rotation_cases import rotate
from tests.kernels.tolerances import assert_close
from worker.memory.layout import GROUPS, ModelShape, PageGeometry

QKV, OUTPUT, GATE_UP, DOWN = GROUPS
GEOMETRIES = {
    "narrow": PageGeometry(ModelShape(2, 48, 4, 2, 8, 80), 4),
    "odd": PageGeometry(ModelShape(2, 36, 3, 1, 12, 27), 3),
}
LAYER = 1
COUNTS, UNOWNED_ROWS = [2, 3, 12, 1], 2  # after the last adapter's
EPSILON = 1e-5


class Guards:
    """Tensors that lie in NaN, which none but they are to be written to."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []

    def put_around(self, values: Tensor, margin: int = 5) -> Tensor:
        inner, around = poisoned(values, margin)
        self._held.append((inner, around))
        return inner

    def check(self) -> None:
        assert all(untouched(inner, around) for inner, around in self._held)


class Group:
    """A group's outputs as one tensor, what adapters are to add to it, and what is there then; all between guards."""

    def __init__(self, case: Case, modules: tuple[int, ...], margin: int, *, is_decode: bool) -> None:
        self.case, self.guards = case, Guards()
        widths = [case.shape.out_features(module) for module in modules]
        self.owned = slice(int(case.batch.row_start[0]), int(case.batch.row_start[-1]))
        values = torch.full((case.num_rows, case.shape.in_features(modules[0])), torch.nan)
        values[self.owned] = torch.randn(values[self.owned].shape)
        x = self.guards.put_around(values.to(case.pages.dtype))
        self.given = torch.randn(case.num_rows, sum(widths)).to(case.pages)
        self.whole = self.guards.put_around(self.given, margin)
        self._pages = case.guarded.clone()
        batch = replace(case.batch, is_decode=is_decode)

        def begin() -> LoraDelta:
            delta = shrink(self.whole.split(widths, 1), x, case.pages[LAYER], batch, layer=LAYER, modules=modules)
            assert delta is not None
            return delta

        plan = begin().plan
        key = next(key for key, kept in batch.plans.items() if kept is plan)
        bridge = self.guards.put_around(torch.full_like(plan.bridge.flatten(1), torch.nan), margin=0)
        batch.plans[key] = replace(plan, bridge=bridge.view(plan.bridge.shape))
        self.delta = begin()
        outputs = self.whole.split(widths, 1)
        expanded = naive.mbgmm(outputs, x, case.pages[LAYER], batch, layer=LAYER, modules=modules)
        self.expanded = torch.cat(expanded, 1).to(case.pages)

    def check(self) -> None:
        self.guards.check()
        assert same_bits(self.case.guarded, self._pages)
        for rows in (slice(0, self.owned.start), slice(self.owned.stop, None)):
            assert self.delta.plan.bridge[rows].isnan().all()
            assert same_bits(self.whole[rows], self.given[rows])


# Whether the batch is of decodes, with how many rows matrices are read early, how many of an adapter MBGMV shrinks, and
# with how many rows inputs are split.
REGIMES = {
    "early": (True, 64, 64, 2048),
    "late": (True, 0, 8, 2048),
    "prompts": (False, 64, 8, 2048),
    "unsplit": (False, 64, 8, 8),
}


@pytest.fixture(params=REGIMES)
def is_decode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    decodes, early_rows, shrunk_few, split_rows = REGIMES[request.param]
    monkeypatch.setattr(lora_delta, "EARLY_ROWS", early_rows)
    monkeypatch.setattr(tiling, "SHRUNK_FEW", {2048: shrunk_few})
    monkeypatch.setattr(tiling, "SPLIT_ROWS", split_rows)
    return decodes


@pytest.fixture(params=GEOMETRIES)
def geometry(request: pytest.FixtureRequest) -> PageGeometry:
    return GEOMETRIES[request.param]


@pytest.fixture
def case(geometry: PageGeometry) -> Case:
    drawn = draw_case(random.Random(1), COUNTS, (1, 8, 20), torch.float16, DEVICE, geometry)
    return replace(drawn, num_rows=sum(COUNTS) + UNOWNED_ROWS)


@pytest.mark.parametrize("modules", [QKV, DOWN], ids=["qkv", "down"])
def test_shrink_and_expand(case: Case, modules: tuple[int, ...], is_decode: bool) -> None:
    group = Group(case, modules, 5, is_decode=is_decode)
    expand(group.delta)
    assert_close(group.whole, group.expanded.double())
    group.check()


def test_silu_mul(case: Case, is_decode: bool) -> None:
    group = Group(case, GATE_UP, 5, is_decode=is_decode)
    out = group.guards.put_around(torch.full_like(group.given[:, ::2], torch.nan), margin=0)
    activation_kernel.silu_mul(group.whole, out, group.delta)
    assert_close(out, activation_kernel.silu_mul(group.expanded).double())
    group.check()


def test_norms(case: Case, is_decode: bool) -> None:
    group = Group(case, DOWN, 5, is_decode=is_decode)
    weight = torch.rand(group.given.shape[1]).to(group.given) + 0.5
    theirs = torch.randn_like(group.given)
    hidden = group.guards.put_around(theirs)
    rows = torch.tensor([case.num_rows - 1, 0, 4, 4], device=DEVICE)
    gathered = norm_kernel.gather_rms_norm(hidden, group.whole, rows, weight, EPSILON, group.delta)
    assert same_bits(hidden, theirs)
    group.whole.copy_(group.given)  # what was added in place is not to be added twice
    out = group.guards.put_around(torch.full_like(theirs, torch.nan), margin=0)
    norm_kernel.add_rms_norm(hidden, group.whole, weight, EPSILON, out, group.delta)
    expected = norm_kernel.add_rms_norm(theirs, group.expanded, weight, EPSILON).double()
    assert_close(hidden, theirs.double())
    assert_close(out, expected)
    assert_close(gathered, expected[rows])
    group.check()


def test_rotation(case: Case, geometry: PageGeometry, is_decode: bool) -> None:
    group, shape = Group(case, QKV, 0, is_decode=is_decode), geometry.shape
    num_pages = case.num_rows // geometry.block_size + 2
    slots = torch.randperm(num_pages * geometry.block_size)[: case.num_rows].to(DEVICE)
    slots[group.owned.stop :] = -1

    def run(qkv: Tensor, delta: LoraDelta | None) -> tuple[Tensor, Tensor]:
        pages = group.guards.put_around(torch.full((num_pages, geometry.page_elements), torch.nan).half(), margin=0)
        return rotate(qkv, slots, pages, geometry, delta=delta), pages

    found, expected = run(group.whole, group.delta), run(group.expanded, None)
    assert_close(found[0], expected[0].double())
    assert torch.equal(found[1].isnan(), expected[1].isnan())
    assert_close(found[1].nan_to_num(), expected[1].nan_to_num().double())
    width = shape.num_heads * shape.head_dim  # queries are turned in place
    group.whole[:, :width] = group.given[:, :width]
    group.check()
