"""A layer with LoRA on its way, by the references and by the kernels in the interpreter; wrong ones are refused."""

from dataclasses import replace

import pytest
import torch

from benchmarks.kernels import layer_chain, lora_case, lora_layer, step
from benchmarks.kernels.contenders import Ours, TorchLoop
from benchmarks.kernels.correctness import Refused, WrongAnswer
from benchmarks.kernels.layer_chain import LayerChain
from benchmarks.kernels.lora_case import LoraCase, LoraPoint
from benchmarks.kernels.lora_grid import Judge
from benchmarks.kernels.shapes import ATTENTION, MODELS, Model
from benchmarks.kernels.timing import Timing
from kernels.device import kernel_of
from worker.memory.layout import GROUPS, ModelShape

SHAPE = ModelShape(1, 64, 4, 2, 16, 96)
POINTS = [
    LoraPoint("tiny", (8, 16, 3), "decode", "zipf", 12, 6),
    LoraPoint("tiny/attention", (5,), "decode", "distinct", 3, 3),
    LoraPoint("tiny", (8,), "prefill", "even", 20, 2),
    LoraPoint("tiny", (8, 3), "mixed", "uniform", 30, 4, prompts=(12, 10)),
]
KERNELS = {"linear_and_shrink": "lora", "rotate_and_write": "rope", "silu_mul": "activation", "add_rms_norm": "norm"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Model("tiny", SHAPE))
    monkeypatch.setitem(MODELS, "tiny/attention", Model("tiny/attention", SHAPE, ATTENTION))
    monkeypatch.setattr(lora_case, "ROTATION_BYTES", 0)
    monkeypatch.setattr(LoraCase.__init__, "__defaults__", ("cpu", 2))


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels in Triton's interpreter, which takes bfloat16 for integers in products."""
    for module in (lora_case, layer_chain, step):
        monkeypatch.setattr(module, "DTYPE", torch.float32)
    for name, op in KERNELS.items():
        monkeypatch.setattr(layer_chain, name, getattr(kernel_of(op), name))


def _chain(point):
    chain = LayerChain(LoraCase(point))
    return chain, Ours().beside(chain.case, chain.linear)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.phase} {point.model}")
def test_ours_is_right(point):
    chain, trusted = _chain(point)
    chain.check_linears()
    chain.check(chain.ours, trusted)
    chain.check(chain.ours, trusted)  # whatever was there


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.phase} {point.model}")
def test_the_kernels_are_right(point, interpreted):
    chain, trusted = _chain(point)
    chain.check(chain.ours, trusted)


@pytest.mark.parametrize("wrong", range(len(GROUPS)))
def test_a_group_that_gets_nothing_is_refused(wrong):
    chain, trusted = _chain(POINTS[0])

    def forgets(layer, index):
        delta = chain.ours(layer, index)
        return None if index == wrong else delta

    with pytest.raises(WrongAnswer):
        chain.check(forgets, trusted)


@pytest.mark.parametrize("wrong", range(len(GROUPS)))
def test_the_wrong_adapter_is_refused(wrong):
    chain, trusted = _chain(POINTS[0])
    batch = chain.case.batch
    swapped = replace(batch, slots=torch.cat((batch.slots[:-2], batch.slots[-2:].flip(0))), kept=(), derived={})

    def errs(layer, index):
        delta = chain.ours(layer, index)
        return replace(delta, batch=swapped) if index == wrong else delta

    with pytest.raises(WrongAnswer):
        chain.check(errs, trusted)


def test_the_base_is_a_layer_whose_adapters_add_nothing():
    chain, _ = _chain(POINTS[1])
    plain = [tensor.clone() for tensor in (*chain.inputs, chain.hidden)]
    chain.base(0)
    based = [tensor.clone() for tensor in (*chain.inputs, chain.hidden)]
    assert not all(torch.equal(one, other) for one, other in zip(plain, based, strict=True))
    chain.restart()
    chain.run(0, chain.linear)
    for one, other in zip(based, (*chain.inputs, chain.hidden), strict=True):
        assert torch.equal(one, other)


def test_a_wrong_linear_is_refused(monkeypatch):
    chain, _ = _chain(POINTS[1])
    product = layer_chain.linear
    monkeypatch.setattr(layer_chain, "linear", lambda x, weight, out, **_: product(x, weight, out).mul_(1.015))
    with pytest.raises(WrongAnswer, match="of the norm"):
        chain.check_linears()


def test_lora_beside_a_linear_is_added_to_it():
    chain, _ = _chain(POINTS[0])
    judge = Judge(chain.case, chain.linear)
    beside = TorchLoop().beside(chain.case, chain.linear)
    judge.check(beside)
    judge.check(beside)  # whatever was in the outputs
    with pytest.raises(WrongAnswer):
        judge.check(chain.linear)


def test_layers_are_timed_without_and_with_lora(monkeypatch):
    captured = []

    def capture(calls):
        for call in calls:
            call()
        captured.append(len(calls))
        return len(captured)

    def time_in_turn(works):
        return [Timing(work, 0.0, 0.0) for work in works]

    monkeypatch.setattr(lora_layer, "capture", capture)
    monkeypatch.setattr(lora_layer, "time_in_turn", time_in_turn)
    monkeypatch.setattr(lora_layer, "time_calls", lambda calls: time_in_turn([capture(calls)])[0])
    refused = Refused()
    times = lora_layer.measure_layer(POINTS[2], [TorchLoop()], refused)
    assert refused.reasons == []
    assert captured == [2] * 12, "the layers of a prefill, once each"
    assert (times.linears.median, times.base.median) == (1, 2)
    assert {name: timing.median for name, timing in times.with_lora.items()} == {"ours": 3, "torch_loop": 12}
    names = [f"{kernel} {group}" for group in ("qkv", "o", "gateup", "down") for kernel in ("shrink", "expand")]
    assert {name: timing.median for name, timing in times.alone.items()} == dict(zip(names, range(4, 12), strict=True))
    assert times.added_us("ours") == 1


def test_each_contender_is_compared_with_the_layer_that_took_turns_with_it():
    one, other, base = Timing(8.0, 0.0, 0.0), Timing(9.0, 0.0, 0.0), Timing(5.0, 0.0, 0.0)
    times = lora_layer.LayerTimes(one, {"ours": other, "peer": other}, base, bases={"peer": base})
    assert (times.added_us("ours"), times.added_us("peer")) == (1, 4)


def test_ours_gets_no_time_if_it_is_wrong(monkeypatch):
    monkeypatch.setattr(lora_layer, "time_calls", lambda calls: Timing(1.0, 1.0, 1.0))
    monkeypatch.setattr(lora_layer, "capture", lambda calls: None)
    monkeypatch.setattr(lora_layer, "time_in_turn", lambda works: [Timing(1.0, 1.0, 1.0) for _ in works])
    monkeypatch.setattr(layer_chain, "linear_and_shrink", lambda *_, **__: None)
    refused = Refused()
    times = lora_layer.measure_layer(POINTS[0], [], refused)
    assert times.with_lora == {}
    (reason,) = refused.reasons
    assert reason.startswith("ours in a layer, tiny decode")
