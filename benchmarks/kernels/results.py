"""What was measured at each point, and the figures that goals speak of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import geometric_mean

from benchmarks.kernels.attention import AttentionPoint
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.floors import Ceilings, Work, linear_work
from benchmarks.kernels.lora_case import LoraPoint
from benchmarks.kernels.lora_layer import LayerTimes
from benchmarks.kernels.shapes import MODELS
from benchmarks.kernels.timing import Timing
from benchmarks.result import Figure

OURS = "ours"
PEERS = {"vLLM": ("vllm", "vllm_pdl"), "SGLang": ("sglang_csgmv", "sglang_triton_v2")}


@dataclass(frozen=True)
class Measured:
    """Times at one point, by contender, beside its floor."""

    name: str
    work: Work
    floor_us: float
    timings: Mapping[str, Timing]

    @property
    def ours_us(self) -> float:
        """Our median; infinite if we were wrong."""
        return self.timings[OURS].median if OURS in self.timings else inf

    @property
    def over_floor(self) -> float:
        """Our time over the floor."""
        return self.ours_us / self.floor_us

    def best(self, names: Iterable[str]) -> float | None:
        """The least median of these; None if none of them ran."""
        return min((self.timings[name].median for name in names if name in self.timings), default=None)

    def document(self) -> dict[str, object]:
        """For the file."""
        return {
            "name": self.name,
            "bytes": self.work.num_bytes,
            "flops": self.work.flops,
            "floor_us": round(self.floor_us, 3),
            "over_floor": round(self.over_floor, 3) if OURS in self.timings else None,
            "us": {name: timing.summary() for name, timing in self.timings.items()},
        }


@dataclass(frozen=True)
class Results:
    """All of a run so far; a part that was not asked for is empty."""

    ceilings: Ceilings
    refused: Refused
    lora: dict[LoraPoint, Measured] = field(default_factory=dict)
    layers: dict[LoraPoint, LayerTimes] = field(default_factory=dict)
    attention: dict[AttentionPoint, Measured] = field(default_factory=dict)
    step: list[Measured] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # for want of time
    earlier: list[str] = field(default_factory=list)  # when runs ended that this one goes on from


def figures(results: Results) -> list[Figure]:
    """Every goal whose points were measured."""
    return [*_peers(results), *_layers(results), *_attention(results)]


def _peers(results: Results) -> list[Figure]:
    found = []
    for peer, names in PEERS.items():
        ratios = [
            other / measured.ours_us
            for measured in results.lora.values()
            if (other := measured.best(names)) is not None and OURS in measured.timings
        ]
        if ratios:
            goal = 2.0 if peer == "vLLM" else 1.3
            details = {"points": len(ratios), "least": round(min(ratios), 3), "most": round(max(ratios), 3)}
            name = f"LoRA ops, {peer}'s time over ours, geometric mean"
            found.append(_figure(name, geometric_mean(ratios), goal, details=details))
    raced = [measured for measured in results.lora.values() if _best_other(measured) is not None]
    if raced:
        lost = [measured.name for measured in raced if not _wins(measured)]
        share = 1 - len(lost) / len(raced)
        name = "LoRA ops, points at which nobody else's is faster"
        found.append(_figure(name, share, 0.95, details={"points": len(raced), "lost": lost}))
    return found


def _best_other(measured: Measured) -> float | None:
    return measured.best(name for name in measured.timings if name != OURS)


def _wins(measured: Measured) -> bool:
    other = _best_other(measured)
    return other is None or measured.ours_us < other


def _layers(results: Results) -> list[Figure]:
    found = []
    right = {point: times for point, times in results.layers.items() if OURS in times.with_lora}
    for live, goal in ((8, None), (64, 1.3), (256, 1.2)):
        point = LoraPoint("llama-3-8b", (16,), "decode", "distinct", live, live)
        if point in right:
            found.append(_decoded(results, point, goal))
    prefills = {point: times for point, times in right.items() if point.phase == "prefill"}
    if prefills:
        shares = {point.name: times.added_us(OURS) / times.linears.median for point, times in prefills.items()}
        name = "MBGMM, prefill of 8,192 tokens, added to a layer, over its base linears, worst of ranks and adapters"
        details = {point: round(share, 4) for point, share in shares.items()}
        found.append(_figure(name, max(shares.values()), 0.08, at_least=False, details=details))
    return found


def _decoded(results: Results, point: LoraPoint, over_floor: float | None) -> Figure:
    """What a layer gets added, and for comparison the same adapters' LoRA alone.

    Args:
        results: so far.
        point: whose.
        over_floor: the goal, over the least time to read the adapters; None: it is 12 us.
    """
    name = f"MBGMV, {point.num_rows} live distinct adapters of rank 16, added to a layer of llama-3-8b"
    alone = results.lora.get(point)
    details = {**added(results, point), "lora_alone": None if alone is None else alone.document()}
    value = results.layers[point].added_us(OURS)
    if over_floor is None:
        return _figure(name, value, 12, "us", at_least=False, details=details)
    value /= results.ceilings.floor_us(point.adapter_work)
    return _figure(f"{name}, over its adapters' byte floor", value, over_floor, at_least=False, details=details)


def added(results: Results, point: LoraPoint) -> dict[str, object]:
    """A layer's times and what each contender adds, beside floors, for the file."""
    times = results.layers[point]
    return {
        "adapters_floor_us": round(results.ceilings.floor_us(point.adapter_work), 3),
        "linears_floor_us": round(results.ceilings.floor_us(linear_work(MODELS[point.model], point.num_rows)), 3),
        "linears_us": times.linears.summary(),
        "base_us": times.base.summary(),
        "base_beside_us": {name: timing.summary() for name, timing in times.bases.items() if name != OURS},
        "with_lora_us": {name: timing.summary() for name, timing in times.with_lora.items()},
        "added_us": {name: round(times.added_us(name), 3) for name in times.with_lora},
        "alone_us": {name: timing.summary() for name, timing in times.alone.items()},
    }


def _attention(results: Results) -> list[Figure]:
    found = []
    for model, kind in (("llama-7b", "MHA"), ("llama-3-8b", "GQA")):
        decode = results.attention.get(AttentionPoint(model, ((1024, 1),) * 64))
        if decode is not None:
            share = decode.work.num_bytes / decode.ours_us * 1e6 / results.ceilings.bytes_per_s
            name = f"Decode attention, {kind}, 64 x 1,024 tokens, share of bandwidth"
            found.append(_figure(name, share, 0.85, details=decode.document()))
        prefill = results.attention.get(AttentionPoint(model, ((8192, 8192),)))
        if prefill is not None:
            share = prefill.work.flops / prefill.ours_us * 1e6 / results.ceilings.flops_per_s
            name = f"Prefill attention, {kind}, 8,192 tokens, causal, share of the matrix rate"
            found.append(_figure(name, share, 0.55, details=prefill.document()))
    return found


def _figure(
    name: str,
    value: float,
    goal: float,
    unit: str = "ratio",
    *,
    at_least: bool = True,
    details: Mapping[str, object],
) -> Figure:
    return Figure(name, round(value, 3), unit, goal, at_least, details)
