"""The harness on a CPU: data in pages and beside them agree, wrong answers are refused, results become figures."""

import json
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.kernels import __main__ as command
from benchmarks.kernels import document, lora_case, step
from benchmarks.kernels.attention import AttentionCase, AttentionPoint
from benchmarks.kernels.contenders import Ours, PaddedBmm, TorchLoop
from benchmarks.kernels.correctness import Refused, WrongAnswer, check_result
from benchmarks.kernels.floors import Ceilings, Work
from benchmarks.kernels.lora_case import LoraCase, LoraPoint
from benchmarks.kernels.lora_grid import Judge
from benchmarks.kernels.lora_layer import LayerTimes
from benchmarks.kernels.peers.stand_ins import PYDANTIC, NotInstalled, Struct, loaded, version
from benchmarks.kernels.results import Measured, Results, figures
from benchmarks.kernels.shapes import MODELS, Model
from benchmarks.kernels.timing import Timing, spread
from kernels.attention import naive as naive_attention
from kernels.lora import naive
from worker.memory.layout import ModelShape

TINY = Model("tiny", ModelShape(1, 64, 4, 2, 16, 96))
POINTS = [
    LoraPoint("tiny", (8, 16, 3), "decode", "zipf", 12, 6),
    LoraPoint("tiny", (5,), "decode", "distinct", 3, 3),
    LoraPoint("tiny", (8,), "prefill", "even", 20, 2),
]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", TINY)
    monkeypatch.setattr(lora_case, "ROTATION_BYTES", 0)
    monkeypatch.setattr(step, "VOCABULARY", 50)


def _result(case, run):
    """What one layer's outputs become, and what they should."""
    before = [output.clone() for output in case.layers[0].outputs]
    for group in range(len(case.model.groups)):
        run(0, group)
    after = [output.clone() for output in case.layers[0].outputs]
    for output, old in zip(case.layers[0].outputs, before, strict=True):
        output.copy_(old)
    return after, case.expected(0, before), before


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.popularity)
def test_pages_hold_what_the_plain_tensors_hold(point):
    case = LoraCase(point, "cpu")
    right = case.expected(0, case.layers[0].outputs)
    for index, group in enumerate(TINY.groups):
        data = case.layers[0]
        parts = data.outputs[index].split(TINY.widths(group), 1)
        by_row = naive.mbgmm(parts, data.inputs[index], case.pages[0], case.batch, layer=0, modules=group)
        torch.testing.assert_close(torch.cat(by_row, 1), right[index], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.popularity)
@pytest.mark.parametrize("contender", [Ours(), TorchLoop(), PaddedBmm()], ids=lambda contender: contender.name)
def test_contenders_are_right(point, contender):
    case = LoraCase(point, "cpu")
    after, right, before = _result(case, contender.prepare(case))
    for output, expected, old in zip(after, right, before, strict=True):
        check_result(output, expected, changed=old)


def test_judging_begins_from_the_first_outputs():
    case = LoraCase(POINTS[1], "cpu")
    judge, add = Judge(case), TorchLoop().prepare(case)
    for _ in range(3):
        judge.check(add)
    with pytest.raises(WrongAnswer):
        judge.check(lambda layer, group: None)


def test_one_wrong_adapter_is_refused():
    case = LoraCase(POINTS[0], "cpu")
    add = TorchLoop().prepare(case)
    case.layers[0].a[5][1].neg_()  # of one module of one adapter
    right = case.expected(0, case.layers[0].outputs)
    case.layers[0].a[5][1].neg_()
    after, _, before = _result(case, add)
    check_result(after[0], right[0], changed=before[0])
    with pytest.raises(WrongAnswer, match="Mismatched"):
        check_result(after[2], right[2], changed=before[2])


def test_small_errors_everywhere_are_refused():
    right = torch.randn(64, 64, dtype=torch.float64)
    check_result(right.bfloat16(), right)
    with pytest.raises(WrongAnswer, match="of the norm"):
        check_result((right * 1.015).bfloat16(), right)
    with pytest.raises(WrongAnswer):
        check_result(torch.full((64, 64), torch.nan, dtype=torch.bfloat16), right)


@pytest.mark.parametrize("window", [None, 5])
def test_attention_reference_follows_the_formula(window):
    point = AttentionPoint("tiny", ((20, 1), (7, 1)) if window else ((20, 9), (7, 7)), window)
    case = AttentionCase(point, "cpu")
    right = naive_attention.paged_attention(
        case.queries[0], case.pages[0], case.batch, num_kv_heads=2, block_size=16, scale=case.scale, window=window
    )
    torch.testing.assert_close(case.expected(0), right)
    check_result(case.ours(0), right)


def test_torch_attention_is_asked_where_it_can_answer():
    case = AttentionCase(AttentionPoint("tiny", ((20, 1),) * 3), "cpu")
    check_result(case.torch_sdpa()(0), case.expected(0))
    case = AttentionCase(AttentionPoint("tiny", ((20, 20),)), "cpu")
    check_result(case.torch_sdpa()(0), case.expected(0))
    for refused in (((20, 1), (9, 1)), ((20, 5),)):
        assert AttentionCase(AttentionPoint("tiny", refused), "cpu").torch_sdpa() is None


ADAPTER_US = 2 * 16 * (6144 + 4096 + 28672 + 4096 + 4096 * 6 + 14336) / 2e12 * 1e6  # to read one of rank 16


def _timing(us):
    return Timing(us, us, us)


def _lora_point(live, **changes):
    return LoraPoint(**{"model": "llama-3-8b", "ranks": (16,), "phase": "decode", "popularity": "distinct",
                        "num_rows": live, "num_adapters": live, **changes})  # fmt: skip


@pytest.fixture
def results():
    work = Work(1000)
    lora = {
        _lora_point(64): Measured("a", work, 50.0, {"ours": _timing(60.0), "vllm": _timing(240.0),
                                                    "vllm_pdl": _timing(120.0), "sglang_triton_v2": _timing(90.0)}),
        _lora_point(8): Measured("b", work, 5.0, {"ours": _timing(10.0), "vllm": _timing(80.0),
                                                  "padded_bmm": _timing(9.0)}),
    }  # fmt: skip
    layers = {
        _lora_point(8): LayerTimes(_timing(100.0), {"ours": _timing(110.0)}, _timing(90.0)),
        _lora_point(64): LayerTimes(_timing(100.0), {"ours": _timing(100.0 + ADAPTER_US * 96)}, _timing(90.0)),
        _lora_point(256): LayerTimes(_timing(100.0), {"ours": _timing(100.0 + ADAPTER_US * 320)}, _timing(90.0)),
        _lora_point(8, phase="prefill", popularity="even", num_rows=8192): LayerTimes(
            _timing(1000.0), {"ours": _timing(1090.0)}, _timing(900.0)
        ),
    }
    decode = AttentionPoint("llama-3-8b", ((1024, 1),) * 64)
    attended = {decode: Measured("d", decode.work, 1.0, {"ours": _timing(decode.work.num_bytes / 1.8e6)})}
    return Results(Ceilings(2e12, 1e15), Refused(), lora, layers, attended)


def test_figures_by_hand(results):
    found = {figure.name: figure for figure in figures(results)}
    which = "live distinct adapters of rank 16, added to a layer of llama-3-8b"
    values = {name: (figure.value, figure.is_met) for name, figure in found.items()}
    assert values == {
        "LoRA ops, vLLM's time over ours, geometric mean": (4.0, True),  # the better of its two at a: 2, and 8 at b
        "LoRA ops, SGLang's time over ours, geometric mean": (1.5, True),
        "LoRA ops, points at which nobody else's is faster": (0.5, False),
        f"MBGMV, 8 {which}": (10.0, True),
        f"MBGMV, 64 {which}, over its adapters' byte floor": (1.5, False),
        f"MBGMV, 256 {which}, over its adapters' byte floor": (1.25, False),
        "MBGMM, prefill of 8,192 tokens, added to a layer, over its base linears, worst of ranks and adapters": (
            0.1,
            False,
        ),
        "Decode attention, GQA, 64 x 1,024 tokens, share of bandwidth": (0.9, True),
    }
    assert found[f"MBGMV, 64 {which}, over its adapters' byte floor"].details["lora_alone"]["over_floor"] == 1.2
    assert found["LoRA ops, points at which nobody else's is faster"].details["lost"] == ["b"]


def test_the_file_and_its_plot(results, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "word", lambda: "h200")
    monkeypatch.setattr(gpu, "machine", lambda commit: {"gpu": "a GPU", "commit": commit})
    path = document.write(results, figures(results), peers=None, folder=tmp_path, commit="abc")
    assert path == tmp_path / "kernels-h200.json"
    written = json.loads(path.read_text())
    assert written["machine"] == {"gpu": "a GPU", "commit": "abc"}
    assert [figure["is_met"] for figure in written["figures"]].count(False) == 4
    assert written["lora"][0]["us"]["vllm_pdl"] == {"median": 120.0, "low": 120.0, "high": 120.0}
    assert written["lora"][0]["over_floor"] == 1.2
    assert written["layer"][3]["added_us"] == {"ours": 90.0}
    assert written["layer"][0]["adapters_floor_us"] == round(8 * ADAPTER_US, 3)
    assert written["ceilings"] == {"copy_tb_per_s": 2.0, "bf16_tflop_per_s": 1000.0}
    document.plot(path)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_a_wrong_kernel_has_no_time(results, tmp_path, monkeypatch):
    with results.refused.unless_right("ours on c"):
        raise WrongAnswer("off\n by much")
    results.lora[_lora_point(256)] = Measured("c", Work(1000), 50.0, {"vllm": _timing(90.0)})
    results.layers[_lora_point(8)] = LayerTimes(_timing(100.0), {}, _timing(90.0))
    assert not [figure for figure in figures(results) if "MBGMV, 8 live" in figure.name]
    share = next(figure for figure in figures(results) if "nobody" in figure.name)
    assert share.details == {"points": 3, "lost": ["b", "c"]}
    monkeypatch.setattr(gpu, "word", lambda: "h200")
    monkeypatch.setattr(gpu, "machine", lambda commit: {"gpu": "a GPU", "commit": commit})
    path = document.write(results, figures(results), peers=None, folder=tmp_path, commit="abc")
    written = json.loads(path.read_text())
    assert written["refused"] == ["ours on c: WrongAnswer: off by much"]
    assert written["lora"][2]["over_floor"] is None


def test_spread_of_replays():
    assert spread([3.0, 1.0, 9.0]) == Timing(3.0, 1.0, 9.0)


def test_it_says_that_it_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.kernels"])
    assert command.main() == 2
    assert "NVIDIA GPU" in capsys.readouterr().err


def test_peers_files_are_loaded_without_their_engine(tmp_path):
    ops = tmp_path / "peer" / "ops"
    ops.mkdir(parents=True)
    (tmp_path / "peer-1.2.dist-info").mkdir()
    (tmp_path / "peer" / "__init__.py").write_text("raise ImportError('the engine')")
    (ops / "op.py").write_text("from peer.envs import LEVEL\nimport msgspec\nRECORD = msgspec.Struct")
    with loaded(tmp_path, ("peer", "peer.ops"), {"peer.envs": {"LEVEL": 3}, "msgspec": {"Struct": Struct}}):
        from peer.ops.op import LEVEL, RECORD
    assert (3, Struct) == (LEVEL, RECORD)
    assert version(tmp_path, "peer") == "1.2"
    assert sys.modules.get("msgspec") is None or sys.modules["msgspec"].Struct is not Struct
    with pytest.raises(NotInstalled, match="unpack"), loaded(tmp_path, ("other",), {}):
        pass


def test_records_in_place_of_pydantics():
    class Inner(PYDANTIC["BaseModel"]):
        width: int = 4
        names: list[str] = PYDANTIC["Field"](default_factory=lambda: ["a"])

    class Outer(PYDANTIC["BaseModel"]):
        inner: Inner = PYDANTIC["Field"](default_factory=Inner)
        rows: list[Inner]

    Outer.__annotations__ = {"inner": Inner, "rows": list[Inner]}
    outer = Outer.model_validate({"rows": [{"width": 7}]})
    assert outer.inner.model_dump() == {"width": 4, "names": ["a"]}
    assert outer.rows[0].model_dump() == {"width": 7, "names": ["a"]}
    with pytest.raises(ValueError, match="has no"):
        Inner.model_validate({"depth": 1})


@pytest.mark.parametrize("op", step.OPS)
def test_the_rest_of_a_step_is_compared_with_the_formula(op):
    point = step.StepPoint(op, "tiny", 5)
    for name in ("ours", "torch"):
        data = point.draw("cpu")
        right = data.expected()
        check_result(data.seen(data.run[name]()), right)
        assert data.work.num_bytes > 0
