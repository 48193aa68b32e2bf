"""A whole run on a CPU, with tiny models, the references for kernels, and a clock for CUDA graphs."""

import json
import sys
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.kernels import __main__ as command
from benchmarks.kernels import attention, lora_case, lora_grid, lora_layer, run, step, warm
from benchmarks.kernels.attention import AttentionCase, AttentionPoint
from benchmarks.kernels.contenders import Ours, TorchLoop
from benchmarks.kernels.floors import Ceilings
from benchmarks.kernels.lora_case import LoraCase, LoraPoint
from benchmarks.kernels.shapes import ATTENTION, MODELS, Model
from benchmarks.kernels.step import StepPoint
from benchmarks.kernels.timing import spread
from worker.memory.layout import ModelShape

SHAPE = ModelShape(1, 64, 4, 2, 16, 96)
DECODES = [
    LoraPoint("tiny", (8,), "decode", "distinct", 4, 4),
    LoraPoint("tiny", (8, 16), "decode", "zipf", 12, 6),
    LoraPoint("tiny/attention", (8,), "decode", "identical", 7, 1),
]
PREFILL = LoraPoint("tiny", (8,), "prefill", "even", 40, 3)
ATTENDED = [AttentionPoint("tiny", ((40, 1),) * 3), AttentionPoint("tiny", ((40, 40),))]


class Lame(Ours):
    """Forgets the last group."""

    name = "vllm"

    def prepare(self, case):
        add = super().prepare(case)
        return lambda layer, index: None if index + 1 == len(case.model.groups) else add(layer, index)


class Loop(TorchLoop):
    name = "sglang_csgmv"


def _time_calls(calls):
    begin = time.perf_counter()
    for call in calls:
        call()
    return spread([1e6 * (time.perf_counter() - begin)])


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Model("tiny", SHAPE))
    monkeypatch.setitem(MODELS, "tiny/attention", Model("tiny/attention", SHAPE, ATTENTION))
    for module in (lora_case, attention, step):
        monkeypatch.setattr(module, "ROTATION_BYTES", 0)
    monkeypatch.setattr(step, "VOCABULARY", 50)
    monkeypatch.setattr(LoraCase.__init__, "__defaults__", ("cpu", 2))
    monkeypatch.setattr(AttentionCase.__init__, "__defaults__", ("cpu", 2))
    monkeypatch.setattr(StepPoint.draw, "__defaults__", ("cpu",))
    for module in (lora_grid, lora_layer, attention, step):
        monkeypatch.setattr(module, "time_calls", _time_calls)
    monkeypatch.setattr(lora_layer, "capture", lambda calls: calls)
    monkeypatch.setattr(lora_layer, "time_in_turn", lambda works: [_time_calls(calls) for calls in works])
    monkeypatch.setattr(lora_grid, "CALLS", 3)
    monkeypatch.setattr(attention, "CALLS", 3)
    monkeypatch.setattr(step, "CALLS", 3)
    monkeypatch.setattr(lora_grid, "all_points", lambda: [*DECODES, PREFILL])
    monkeypatch.setattr(lora_grid, "first_points", lambda: DECODES[1:2])
    monkeypatch.setattr(lora_layer, "all_points", lambda: [DECODES[0], PREFILL, DECODES[2]])
    monkeypatch.setattr(attention, "all_points", lambda: ATTENDED)
    monkeypatch.setattr(attention, "quick_points", lambda: ATTENDED[1:])
    monkeypatch.setattr(step, "all_points", lambda: [StepPoint(op, "tiny", 5) for op in step.OPS])
    monkeypatch.setattr(run, "contenders", lambda peers: [Ours(), Lame(), Loop()])
    monkeypatch.setattr(run, "warm_up", lambda points, names, peers: [f"{len(points)} {','.join(names)}"])
    monkeypatch.setattr(command, "measure_ceilings", lambda: Ceilings(1e10, 1e11))
    monkeypatch.setattr(gpu, "word", lambda: "none")
    monkeypatch.setattr(gpu, "machine", lambda commit: {"gpu": "a CPU", "commit": commit})
    with monkeypatch.context() as context:
        context.setattr(torch.cuda, "is_available", lambda: False)
        yield


def _main(monkeypatch, tmp_path, *arguments):
    class Here:
        """Says that there is a GPU, once."""

        asked = False

        def __call__(self):
            self.asked, first = True, not self.asked
            return first

    monkeypatch.setattr(torch.cuda, "is_available", Here())
    monkeypatch.setattr(sys, "argv", ["benchmarks.kernels", "--out", str(tmp_path), "--commit", "abc", *arguments])
    status = command.main()
    return status, json.loads((tmp_path / "kernels-none.json").read_text())


def test_a_run_measures_every_point_and_refuses_the_wrong(monkeypatch, tmp_path, capsys):
    status, written = _main(monkeypatch, tmp_path)
    assert status == 1
    assert written["lora"][0]["name"] == DECODES[1].name, "what goals speak of comes first"
    assert {point["name"] for point in written["lora"]} == {point.name for point in [*DECODES, PREFILL]}
    for point in written["lora"]:
        assert {"ours", "sglang_csgmv", "torch_loop", "padded_bmm"} == set(point["us"])
    assert len(written["layer"]) == 3
    assert set(written["layer"][0]["added_us"]) == {"ours", "sglang_csgmv"}
    assert set(written["layer"][1]["added_us"]) == {"ours"}, "of prompts, peers at rank 16 only"
    assert len(written["attention"]) == 2
    assert {"ours", "torch_sdpa"} == set(written["attention"][0]["us"])
    assert len(written["step"]) == len(step.OPS)
    assert all(set(point["us"]) == {"ours", "torch"} for point in written["step"])
    assert written["left_out"] == []
    assert len(written["refused"]) == 6, "the lame one, at each point of LoRA and in two layers of decodes"
    assert all(reason.startswith("vllm ") for reason in written["refused"])
    assert (tmp_path / "kernels-none.png").exists()
    captured = capsys.readouterr()
    assert captured.err.count("floor") >= 4
    assert "nobody else's is faster" in captured.out


def test_a_run_that_has_no_time_left_says_what_it_left_out(monkeypatch, tmp_path):
    ticks = iter(range(10_000))
    monkeypatch.setattr(run.Progress, "seconds", property(lambda _: float(next(ticks))))
    _, written = _main(monkeypatch, tmp_path, "--only", "attention", "step", "--seconds", "11")
    assert len(written["attention"]) == 2
    assert 0 < len(written["step"]) < len(step.OPS)
    assert len(written["left_out"]) + len(written["step"]) == len(step.OPS)
    assert written["lora"] == []


def test_another_run_goes_on_where_one_ended(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(run.Progress, "seconds", property(lambda _: now.append(now[-1] + 1.0) or now[-1]))
    _, part = _main(monkeypatch, tmp_path / "part", "--seconds", "24")
    assert part["left_out"]
    assert part["layer"]
    earlier = tmp_path / "part" / "kernels-none.json"
    status, whole = _main(monkeypatch, tmp_path, "--rest-of", str(earlier))
    assert status == 1, "the lame one is still refused"
    assert whole["left_out"] == []
    assert whole["earlier"] == [part["time"]]
    for kind, count in (("lora", 4), ("layer", 3), ("attention", 2), ("step", len(step.OPS))):
        for mine, first in zip(whole[kind], part[kind], strict=False):
            assert mine | {"over_floor": None} == first | {"over_floor": None}, "of rounded times"
        assert len(whole[kind]) == count
    assert whole["refused"][: len(part["refused"])] == part["refused"]
    _, again = _main(monkeypatch, tmp_path / "again", "--rest-of", str(tmp_path / "kernels-none.json"))
    assert again["figures"] == whole["figures"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": {"gpu": "a CPU", "commit": "fed"}}, "commit was fed, is abc"),
        ({"peers": {"vllm": {"version": "1"}}}, "peers was {'vllm': {'version': '1'}}, is {}"),
        (None, "no file of an earlier run"),
    ],
    ids=["commit", "peers", "broken"],
)
def test_a_run_does_not_go_on_from_another(change, said, monkeypatch, tmp_path, capsys):
    _main(monkeypatch, tmp_path, "--only", "step")
    earlier = tmp_path / "kernels-none.json"
    text = "[" if change is None else json.dumps(json.loads(earlier.read_text()) | change)
    (tmp_path / "other.json").write_text(text)
    before = earlier.read_bytes()
    status, _ = _main(monkeypatch, tmp_path, "--rest-of", str(tmp_path / "other.json"))
    assert status == 2
    assert said in capsys.readouterr().err
    assert earlier.read_bytes() == before, "nothing was written"


def test_what_failed_as_a_whole_is_tried_again(monkeypatch, tmp_path):
    real = step.measure_step
    monkeypatch.setattr(step, "measure_step", lambda *_: 1 / 0)
    _, broken = _main(monkeypatch, tmp_path, "--only", "step")
    assert len(broken["refused"]) == len(step.OPS)
    monkeypatch.setattr(step, "measure_step", real)
    _, whole = _main(monkeypatch, tmp_path, "--only", "step", "--rest-of", str(tmp_path / "kernels-none.json"))
    assert whole["refused"] == []
    assert len(whole["step"]) == len(step.OPS)


def test_what_is_warmed_up():
    points = [*DECODES, PREFILL, *ATTENDED]
    tasks = warm.tasks_of(points, ["ours", "vllm", "sglang_triton_v2"], None)
    names = [name for name, _, _ in tasks]
    assert names.count("ours") == 4 + len(ATTENDED)  # few rows, more rows, prompts, and the other model
    many = LoraPoint("tiny", (8,), "decode", "zipf", 256, 100)
    ((_, smaller, _),) = warm.tasks_of([many], ["sglang_csgmv"], None)
    assert (smaller.num_rows, smaller.num_adapters) == (256, 32)
    ((_, same, _),) = warm.tasks_of([many], ["ours"], None)
    assert same == many


def test_warming_up_runs_each_task_once_and_says_what_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    points = [DECODES[0], ATTENDED[0], StepPoint("silu_mul", "tiny", 5)]
    for task in warm.tasks_of(points, ["ours"], None):
        assert warm._run(task) == ""
    broken = LoraPoint("no such model", (8,), "decode", "identical", 1, 1)
    assert "no such model" in warm._run(("ours", broken, None))
