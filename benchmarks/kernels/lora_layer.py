"""What LoRA adds to a layer: all of it but attention in a CUDA graph, without adapters and with.

Nothing is timed before it is right. The linears' outputs are compared with float64, and so are those with LoRA added in
place, by `mbgmm` and by each peer. Ours leaves adapters' shares to the ops after the linears, so that no outputs with
them are in memory: what it makes of a layer is compared with what `mbgmm` after each linear and then plain ops make of
it, which the part `step` compares with float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.kernels.contenders import Contender, Ours
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.layer_chain import Begin, LayerChain
from benchmarks.kernels.lora_case import LoraCase, LoraPoint
from benchmarks.kernels.lora_grid import MIXED, Judge, layer_calls
from benchmarks.kernels.timing import Captured, Timing, capture, time_calls, time_in_turn
from kernels.lora import LoraDelta, expand
from worker.memory.layout import GROUPS, MODULES


@dataclass(frozen=True)
class LayerTimes:
    """Whole layers without their attention.

    Attributes:
        base: without adapters.
        with_lora: by contender.
        linears: the base linears alone.
        alone: our kernels, each in a graph of nothing else, by its name and its group's.
        bases: without adapters again, in turn with a contender; where one has none, it is `base`.
    """

    base: Timing
    with_lora: dict[str, Timing]
    linears: Timing
    alone: dict[str, Timing] = field(default_factory=dict)
    bases: dict[str, Timing] = field(default_factory=dict)

    def added_us(self, name: str) -> float:
        """What a contender's LoRA adds, by the medians."""
        return self.with_lora[name].median - self.bases.get(name, self.base).median


def quick_points() -> list[LoraPoint]:
    """A few adapters in decode, and in prefill."""
    return [point for point in all_points() if point.num_adapters == 8 and point.ranks == (16,)]


def all_points() -> list[LoraPoint]:
    """As many live distinct adapters as rows, on all linears or on few; 8,192 tokens over adapters of every rank.

    Then batches as a workload has them: adapters with several rows, and prompts beside those that decode.
    """
    decodes = [LoraPoint("llama-3-8b", (16,), "decode", "distinct", live, live) for live in (8, 64, 256, 1)]
    prefills = [
        LoraPoint("llama-3-8b", (rank,), "prefill", "even", 8192, live)
        for rank in (8, 16, 32, 64)
        for live in (1, 8, 64)
    ]
    served = [
        LoraPoint("llama-3-8b", MIXED, "decode", "distinct", 256, 256),
        LoraPoint("llama-3-8b", MIXED, "decode", "uniform", 1000, 200),
        LoraPoint("llama-3-8b", MIXED, "mixed", "uniform", 900, 199, prompts=(500,)),
        LoraPoint("llama-3-8b", MIXED, "mixed", "uniform", 2000, 194, prompts=(250,) * 6),
        LoraPoint("llama-3-8b", MIXED, "mixed", "uniform", 4084, 200, prompts=(256,) * 14),
        LoraPoint("llama-7b", (8,), "decode", "uniform", 510, 100),
        LoraPoint("llama-7b", (8,), "mixed", "distinct", 555, 255, prompts=(300,)),
    ]
    return [*decodes, LoraPoint("llama-7b", (8,), "decode", "distinct", 256, 256), *prefills, *served]


def measure_layer(point: LoraPoint, peers: Sequence[Contender], refused: Refused) -> LayerTimes:
    """Times a layer without adapters, then with ours and with each peer's LoRA, if it is right.

    Raises:
        WrongAnswer: if a base linear is wrong, and no time means anything.
    """
    case = LoraCase(point)
    chain = LayerChain(case)
    chain.check_linears()
    chain.restart()
    judge = Judge(case, chain.linear)
    linears = time_calls(layer_calls(case, chain.linears))
    base, alone = _capture(chain, chain.base), {}
    with_lora: dict[str, Timing] = {}
    bases: dict[str, Timing] = {}

    def time(name: str, begin: Begin) -> None:
        bases[name], with_lora[name] = time_in_turn([base, _capture(chain, partial(chain.run, begin=begin))])

    with refused.unless_right(f"ours in a layer, {point.name}"):
        in_turn = Ours().beside(case, chain.linear)
        assert in_turn is not None, "it runs anywhere"
        chain.restart()
        judge.check(in_turn)
        chain.check(chain.ours, in_turn)
        time("ours", chain.ours)
        alone = _alone(chain)
    for peer in peers:
        with refused.unless_right(f"{peer.name} in a layer, {point.name}"):
            run = peer.beside(case, chain.linear)
            if run is not None:
                chain.restart()
                judge.check(run)
                time(peer.name, run)
        run = None
    return LayerTimes(bases.get("ours") or time_in_turn([base])[0], with_lora, linears, alone, bases)


def _capture(chain: LayerChain, layer: Callable[[int], None]) -> Captured:
    chain.restart()
    return capture(layer_calls(chain.case, layer))


def _alone(chain: LayerChain) -> dict[str, Timing]:
    """Each group's shrink, and the expand of what it leaves, by names such as `shrink qkv`."""
    case, times = chain.case, {}
    for index, group in enumerate(GROUPS[: chain.num_adapted]):
        name = "".join(MODULES[module] for module in group)
        begun = [chain.shrink(layer, index) for layer in range(case.num_layers)]
        deltas = [delta for delta in begun if delta is not None]
        times[f"shrink {name}"] = time_calls(layer_calls(case, partial(chain.shrink, index=index)))
        times[f"expand {name}"] = time_calls(layer_calls(case, partial(_expand, deltas)))
    return times


def _expand(deltas: Sequence[LoraDelta], layer: int) -> None:
    expand(deltas[layer])
