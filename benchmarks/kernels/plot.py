"""A run's plot, from its file: `python -m benchmarks.kernels.plot FILE`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

NAMES = {
    "ours": "Multitude",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "padded_bmm": "padded bmm",
    "torch_loop": "torch loop",
    "torch_sdpa": "torch SDPA",
}
COLOURS = {
    "ours": "#0b6e4f",
    "vllm": "#c8553d",
    "sglang": "#3d6fb6",
    "padded_bmm": "#a08a3c",
    "torch_loop": "#999999",
    "torch_sdpa": "#999999",
}
OTHERS = {"vllm", "sglang", "padded_bmm", "torch_loop"}
VARIANTS = {"vllm_pdl": "vllm", "sglang_csgmv": "sglang", "sglang_triton_v2": "sglang"}


def draw(path: Path) -> Path:
    """Writes the plot beside the file, with .png for .json."""
    document = json.loads(path.read_text(encoding="utf-8"))
    figure = plt.figure(figsize=(15, 10), layout="constrained")
    rows = figure.add_gridspec(2, 1)
    axes = [own for row in range(2) for own in figure.add_subfigure(rows[row]).subplots(1, 2)]
    panels = (
        (_live_adapters, [p for p in document["lora"] if _is_distinct(p)]),
        (_every_point, [p for p in document["lora"] if OTHERS & set(_best(p["us"])) and "ours" in p["us"]]),
        (_layers, [p for p in document["layer"] if p["phase"] == "prefill"]),
        (_attention, [p for p in document["attention"] if "ours" in p["us"]]),
    )
    for (panel, points), own in zip(panels, axes, strict=True):
        if points:
            panel(own, points)
        else:
            own.set_axis_off()
    machine, peers = document["machine"], document["peers"]
    beside = ", ".join(f"{NAMES[peer]} {about['version']}" for peer, about in peers.items())
    figure.suptitle(
        f"Kernels on {machine['gpu']}, bf16, CUDA graph replays, {document['time'][:10]}, commit {machine['commit']}"
        + (f"; beside {beside}" if beside else "")
    )
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target


def _best(times: dict[str, Any]) -> dict[str, float]:
    """Medians, of a peer's variants the better."""
    return _better({name: timing["median"] for name, timing in times.items()})


def _better(times: dict[str, float]) -> dict[str, float]:
    """Of a peer's variants the better."""
    best: dict[str, float] = {}
    for name, time in times.items():
        who = VARIANTS.get(name, name)
        best[who] = min(time, best.get(who, float("inf")))
    return best


def _is_distinct(point: dict[str, Any]) -> bool:
    return (point["model"], point["ranks"], point["popularity"]) == ("llama-3-8b", [16], "distinct")


def _live_adapters(axes: Axes, chosen: list[dict[str, Any]]) -> None:
    chosen.sort(key=lambda point: int(point["live_adapters"]))
    for who, name in NAMES.items():
        line = [(p["live_adapters"], _best(p["us"])[who]) for p in chosen if who in _best(p["us"])]
        if line:
            axes.plot(*zip(*line, strict=True), marker="o", label=name, color=COLOURS[who])
    axes.plot(
        [p["live_adapters"] for p in chosen], [p["floor_us"] for p in chosen], "k:", label="floor: bytes at copy rate"
    )
    axes.set(
        title="A layer's LoRA, Llama-3-8B, every linear, rank 16, one row each",
        xlabel="live distinct adapters = rows",
        ylabel="µs",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([p["live_adapters"] for p in chosen], [str(p["live_adapters"]) for p in chosen])
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()


def _every_point(axes: Axes, points: list[dict[str, Any]]) -> None:
    for who in ("vllm", "sglang", "padded_bmm", "torch_loop"):
        ratios = sorted(
            best[who] / best["ours"] for best in (_best(p["us"]) for p in points) if {who, "ours"} <= set(best)
        )
        if ratios:
            label = f"{NAMES[who]} ({len(ratios)} points)"
            places = [(place + 0.5) / len(ratios) for place in range(len(ratios))]
            axes.plot(places, ratios, marker=".", label=label, color=COLOURS[who])
    axes.axhline(1, color="black", linewidth=1)
    axes.set(title="Every LoRA point: their time over ours", xlabel="share of the points, sorted", ylabel="times ours")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def _layers(axes: Axes, prefills: list[dict[str, Any]]) -> None:
    labels = [f"r{p['ranks'][0]}\n{p['live_adapters']}" for p in prefills]
    shown = ("ours", "vllm", "sglang")
    for place, who in enumerate(shown):
        shares = []
        for point in prefills:
            best = _better(point["added_us"]).get(who)
            shares.append(float("nan") if best is None else 100 * best / point["linears_us"]["median"])
        axes.bar(
            [i + 0.27 * (place - 1) for i in range(len(prefills))], shares, 0.25, label=NAMES[who], color=COLOURS[who]
        )
    axes.axhline(8, color="black", linewidth=1, linestyle=":")
    axes.set_xticks(range(len(prefills)), labels, fontsize=8)
    axes.set(
        title="8,192 prompt tokens: added to a layer (peers: rank 16)",
        xlabel="rank and, below, number of adapters",
        ylabel="% of base linears (goal: 8)",
    )
    axes.legend(loc="upper left")


def _attention(axes: Axes, points: list[dict[str, Any]]) -> None:
    points.reverse()  # the first at the top
    for place, who in enumerate(("torch_sdpa", "ours")):
        shares = [100 * p["floor_us"] / p["us"][who]["median"] if who in p["us"] else 0 for p in points]
        axes.barh(
            [i + 0.4 * place - 0.2 for i in range(len(points))], shares, 0.38, label=NAMES[who], color=COLOURS[who]
        )
    axes.set_yticks(range(len(points)), [point["name"] for point in points], fontsize=7)
    axes.set(title="Attention: floor over time", xlabel="% of the measured copy rate or matrix rate", xlim=(0, 105))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
