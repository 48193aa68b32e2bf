"""A step's kernels are divided among its parts, times add up to the device's, and floors are those of the shapes."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import kernels
from benchmarks.kernels.floors import Ceilings, Work
from benchmarks.roofline import __main__ as command
from benchmarks.roofline import case as floors
from benchmarks.roofline.case import Case
from benchmarks.roofline.parts import EMBEDDING, LINEARS, OTHER, PARTS, SHRINKS, TOGETHER, parts_of
from benchmarks.roofline.plot import draw
from benchmarks.roofline.report import roofline
from benchmarks.roofline.steady import steady_engines
from benchmarks.roofline.trace import Kernel, spent_by_part
from benchmarks.serve.setups import SETUPS
from tests.kernels.launches import launched_in
from worker.memory.layout import GROUPS

TINY = SETUPS["tiny"]
CEILINGS = Ceilings(1e9, 1e15)
LAYER = [
    "_norm_rows", "_shrink", "nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "_expand", "_rotate_and_write", "decode", "_merge",
    "void cutlass::Kernel<x>", "cublasLt::splitKreduce_kernel<32>", "_norm_rows", "gemvx::kernel", "_silu_mul",
    "nvjet_tst",
]  # fmt: skip
STEP = [
    "Memcpy HtoD (Pinned -> Device)", "void at::native::vectorized_gather_kernel<16>", "_angles", "_plan",
    *LAYER, *LAYER, "_norm_rows", "nvjet_head", "find_peaks", "choose", "Memcpy DtoH (Device -> Pinned)",
]  # fmt: skip


def test_linear_layers_are_told_apart_by_their_order() -> None:
    names = [part.name for part in parts_of(STEP + STEP, 2)]
    layer = ["norm", "qkv LoRA shrink", "qkv GEMM", "LoRA expand", "rope, KV write", "attention", "attention", "o GEMM",
             "o GEMM", "norm", "gate_up GEMM", "SiLU", "down GEMM"]  # fmt: skip
    step = ["copies to and from the host", "embedding, tables", "rope, KV write", "LoRA plan", *layer, *layer, "norm",
            "head GEMM", "sampling", "sampling", "copies to and from the host"]  # fmt: skip
    assert names == step + step


def test_a_gated_linear_layer_with_its_product_is_one() -> None:
    layer = ["nvjet_tst", "_rotate_and_write", "decode", "nvjet_tst", "_norm_rows", "linear_silu_mul", "nvjet_tst"]
    names = [part.name for part in parts_of([*layer, *layer, "nvjet_tst"], 2)]
    assert names[4:7] == ["norm", "gate_up GEMM", "down GEMM"]
    assert names[-1] == "head GEMM"
    narrow = ["_silu_mul" if name == "linear_silu_mul" else name for name in layer]
    narrow.insert(narrow.index("_silu_mul"), "nvjet_tst")
    parts = parts_of([*layer, *narrow, "nvjet_tst"], 2)
    assert [part.name for part in parts].count("gate_up GEMM") == 2
    (last,) = (part for part in parts if part.name == "SiLU, last layer")
    step = Case(TINY, 4, 2, 32, chunk=100)
    assert last.work(step, []).num_bytes == 2 * 5 * 3 * TINY.shape.intermediate_size, "of the rows that decode and one"


def test_a_shrink_beside_a_linear_layer_is_work_of_that() -> None:
    layer = ["linear_and_shrink", "_rotate_and_write", "decode", *["linear_and_shrink", "_norm_rows"] * 3]
    parts = parts_of([*layer, *layer, "linear"], 2)
    names = [part.name for part in parts]
    assert names[:3] + names[3:9:2] == [
        "qkv GEMM",
        "rope, KV write",
        "attention",
        "o GEMM",
        "gate_up GEMM",
        "down GEMM",
    ]
    step = Case(TINY, 4, 2, 32)
    alone = sum(part.work(step, [shrink.name for shrink in SHRINKS]).num_bytes for part in LINEARS)
    beside = sum(part.work(step, names).num_bytes for part in LINEARS)
    one_alone = sum(part.work(step, [*names, SHRINKS[3].name]).num_bytes for part in LINEARS)
    assert one_alone == beside - LINEARS[3].work(step, names).num_bytes + LINEARS[3].floor(step).num_bytes
    inputs = 2 * 4 * TINY.shape.num_layers * sum(TINY.shape.in_features(group[0]) for group in GROUPS)
    assert beside - alone == floors.shrink(*GROUPS)(step).num_bytes - inputs, "which the linear layers read anyway"


def test_linear_layers_that_do_not_add_up_to_steps_stay_together() -> None:
    names = [part.name for part in parts_of([name for name in STEP if name != "nvjet_head"], 2)]
    assert names.count("linear layers (not told apart)") == 8 + 2, "and what splits are added up with"
    assert names.count("norm") == 5
    case = Case(TINY, 4, 2, 32)
    linears = [floors.linear(group)(case) for group in (floors.QKV, floors.O, floors.GATE_UP, floors.DOWN)]
    assert floors.every_product(case).flops == sum(work.flops for work in linears) + floors.head(case).flops


def _launched() -> set[str]:
    """The names of this project's kernels, as a launch names them."""
    paths = Path(kernels.__file__).parent.rglob("*.py")
    return {name for path in paths for name in launched_in(path.read_text())} - {"kernel"}


def test_every_kernel_of_this_project_has_a_part() -> None:
    names = _launched()
    assert {"_shrink", "_expand", "decode", "prefill", "_norm_rows", "choose", "_copy_pages"} <= names
    assert {name for name in names if parts_of([name], 1)[0] in (OTHER, EMBEDDING)} == set()
    together = {name for name in names if parts_of([name], 1)[0] is TOGETHER}
    assert together == {"linear_and_expand", "linear_and_shrink_apart"}


def test_kernels_that_run_beside_others_count_once() -> None:
    gemm = [Kernel("nvjet", start, start + 10) for start in (0, 20, 40, 60, 80)]
    beside = [Kernel("_shrink", 5, 12), Kernel("_expand", 42, 48)]
    spent = spent_by_part(sorted(gemm + beside, key=lambda kernel: kernel.start), num_layers=1)
    found = {part.name: (own.busy, own.alone, own.count) for part, own in spent.items()}
    assert found["o LoRA shrink"] == (2, 7, 1), "which is in front of o's product"
    assert found["LoRA expand"] == (0, 6, 1)
    assert sum(own.busy for own in spent.values()) == 52


def test_floors_are_those_of_the_shapes() -> None:
    s1 = Case(SETUPS["S1"], rows=256, adapters=256, context=512)
    ceilings = Ceilings(4.3e12, 790e12)
    linears = [floors.linear(group) for group in (floors.QKV, floors.O, floors.GATE_UP, floors.DOWN)]
    flops = sum(linear(s1).flops for linear in linears)
    assert 1e3 * flops / 790e12 == pytest.approx(4.28, abs=0.2), "the floor of 256 rows in ANCHORS, without the head"
    weights = sum(linear(replace(s1, rows=0, adapters=0)).num_bytes for linear in linears)
    assert weights == 2 * 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    shrink = floors.shrink(*GROUPS)
    read = shrink(s1).num_bytes + floors.expand(floors.QKV, floors.O, floors.GATE_UP, floors.DOWN)(s1).num_bytes
    assert read == pytest.approx(256 * 16.8e6 + 2 * 32 * 256 * (2 * 4096 + 2 * 4 * 4096), rel=0.01)
    assert floors.attention(s1).num_bytes == pytest.approx(256 * 512 * 0.524e6, rel=0.01)
    assert ceilings.floor_us(shrink(replace(s1, adapters=0))) == 0
    left = 511 * 2 * 8 * 4096  # of the chunk the last layer's o takes one row
    assert shrink(replace(s1, chunk=512)).flops == 3 * shrink(s1).flops - left, "the chunk has an adapter"


@pytest.mark.parametrize("words", ["5", "1,2", "0,0,8", "1,1,1,1,1", "a,b,c", "1,-1,8"])
def test_bad_cases_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|write rows,adapters"):
        Case.parse(TINY, words)


@pytest.mark.parametrize("chunk", [0, 24])
def test_steps_stay_as_the_case_says(chunk: int) -> None:
    cases = [Case(TINY, rows=12, adapters=3, context=40, chunk=chunk), Case(TINY, rows=2, adapters=0, context=9)]
    for case, steady in steady_engines(cases, torch.device("cpu")):
        seen = [step() for step in steady.steps(case, 4)]
        outputs = [len(result.outputs) for result in seen]
        assert outputs == [case.rows + bool(case.chunk)] * 4
        lens = [s.num_tokens for s in steady.engine._sequences.values()]
        assert all(abs(num_tokens - case.context) <= 3 for num_tokens in lens), "it is halfway"
        prefilled = [result.stats.num_prefill_tokens for result in seen]
        assert [after - one for one, after in pairwise(prefilled)] == [case.chunk] * 3


def test_a_report_adds_up() -> None:
    case = Case(TINY, 4, 2, 32)
    seen = [Kernel(name, 10 * place, 10 * place + 8) for place, name in enumerate(STEP + STEP)]
    report = roofline(case, 0.5, spent_by_part(seen, 2), 2, CEILINGS)
    assert report.busy_ms == pytest.approx(len(STEP) * 0.008)
    assert report.idle_share == pytest.approx(1 - report.busy_ms / 0.5)
    lines = {line.part: line for line in report.lines}
    assert lines["norm"].kernels == 5
    assert lines["LoRA plan"].floor_ms == 0
    assert lines["SiLU"].floor_ms == pytest.approx(2 * 4 * 3 * 128 * 2 / 1e9 * 1e3)
    without_expands = [kernel for kernel in seen if kernel.name != "_expand"]
    fused = roofline(case, 0.5, spent_by_part(without_expands, 2), 2, CEILINGS)
    more = {line.part: line.floor_ms - lines[line.part].floor_ms for line in fused.lines}
    b_ms = 2 * 2 * (2 + 8) / 1e9 * 1e3  # of both adapters and layers, for each column of a module's output
    assert {part: ms for part, ms in more.items() if ms} == {
        "rope, KV write": pytest.approx(b_ms * (64 + 32 + 32)),
        "norm": pytest.approx(b_ms * (64 + 64)),
        "SiLU": pytest.approx(b_ms * (128 + 128)),
    }
    described = json.loads(json.dumps(report.described()))
    assert {part["part"] for part in described["parts"]} == set(lines)
    assert len(report.table().rows) == len(lines) + 2


def test_what_linear_layers_add_in_large_steps_is_no_work_of_an_expand() -> None:
    small, large = (Case(SETUPS["M2"], rows=1000, adapters=200, context=512, chunk=chunk) for chunk in (1000, 1500))
    (linear, expand), shape = (floors.linear(floors.O), floors.expand(floors.O)), SETUPS["M2"].shape
    added = linear(large).num_bytes - linear(replace(large, adapters=0)).num_bytes
    num_layers = shape.num_layers - 1  # past the last one's attention the step is small
    assert added == 2 * SETUPS["M2"].ranks[0] * shape.hidden_size * num_layers
    assert linear(small).num_bytes == linear(replace(small, adapters=0)).num_bytes
    outputs = 2 * 2 * shape.hidden_size * num_layers
    assert expand(small).num_bytes - expand(large).num_bytes == added + outputs * (2000 - 995), "rows"


def test_past_the_last_attention_a_prompt_has_one_row() -> None:
    step = Case(SETUPS["M2"], rows=8, adapters=8, context=64, chunk=1000)
    shape = step.setup.shape
    linears = (floors.linear(group)(step) for group in (floors.QKV, floors.O))
    (qkv, o), silu, norm = linears, floors.silu(step), floors.norm(step)
    qkv_width = sum(map(shape.out_features, floors.QKV))
    assert qkv.flops == 2 * 1008 * 32 * shape.hidden_size * qkv_width
    rows = 1008 * 31 + 9
    assert o.flops == 2 * rows * shape.hidden_size**2
    assert silu.num_bytes == 2 * rows * 3 * shape.intermediate_size
    assert norm.num_bytes == 2 * (1008 * 32 + rows) * 4 * shape.hidden_size


def test_every_part_has_a_floor_or_should_not_be() -> None:
    case = Case(TINY, 4, 2, 32)
    assert [part.name for part in PARTS if part.floor(case) == Work(0)] == ["LoRA plan", "adapter loads"]


def test_it_is_drawn(tmp_path: Path) -> None:
    seen = [Kernel(name, 10 * place, 10 * place + 8) for place, name in enumerate(STEP)]
    report = roofline(Case(TINY, 4, 2, 32, 8), 0.5, spent_by_part(seen, 2), 1, CEILINGS)
    path = tmp_path / "roofline.json"
    path.write_text(json.dumps({"machine": {"gpu": "H200", "commit": "c0ffee"}, "steps": [report.described()] * 2}))
    assert draw(path).read_bytes().startswith(b"\x89PNG")


def test_it_says_that_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["roofline", "--setup", "tiny", "1,1,8"])
    assert command.main() == 2
    assert "NVIDIA GPU" in capsys.readouterr().err
