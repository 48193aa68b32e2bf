"""The file that a run leaves, and its plot."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import gpu, result
from benchmarks.kernels.lora_case import LoraPoint
from benchmarks.kernels.peers.stand_ins import version
from benchmarks.kernels.results import Results, added
from benchmarks.result import Figure

METHOD = (
    "Every time is of CUDA graph replays, without launches: a graph holds some layers' calls in turn, each with its "
    "own weights, inputs and outputs, in all far more than L2 holds; median, least and most of the replays, for one "
    "call. Each result was first compared with float64. Floors: bytes over a large copy's rate or products over a "
    "large bf16 matrix product's rate, the larger. LoRA is a whole layer's, added to the base outputs in place; in "
    "`layer`, in all of a layer but its attention, as the engine adds it, and as the peers do in the same layer."
)
PEERS = {
    "vllm": (
        "add_lora_linear's shrink and expand of each group; max_loras is live adapters rounded up to a power of two, "
        "max_lora_rank the least it takes for the largest rank, specialize_active_lora on, metadata made before; with "
        "and without programmatic dependent launch (its dual stream's), of which the better counts"
    ),
    "sglang": (
        "csgmv with a grid of the batch's own segments and chunks of 16, and triton_v2 by its plan table for the GPU "
        "with as many slots as live adapters; metadata and routes made before; the better counts"
    ),
}


def write(
    results: Results, figures: Sequence[Figure], *, peers: Path | None, folder: Path | None, commit: str | None
) -> Path:
    """Writes kernels-<gpu>.json."""
    name = f"kernels-{gpu.word()}"
    extra = {
        "method": METHOD,
        "peers": described_peers(peers),
        "ceilings": results.ceilings.described(),
        "refused": results.refused.reasons,
        "left_out": results.left_out,
        "earlier": results.earlier,
        "lora": [{**_lora_point(point), **measured.document()} for point, measured in results.lora.items()],
        "layer": [{**_lora_point(point), **added(results, point)} for point in results.layers],
        "attention": [measured.document() for measured in results.attention.values()],
        "step": [measured.document() for measured in results.step],
    }
    return result.write(name, figures, folder=folder or result.RESULTS, machine=gpu.machine(commit), extra=extra)


def described_peers(peers: Path | None) -> dict[str, object]:
    """Which peers run, and how, for the file."""
    return {peer: {"version": version(peers, peer), "called": how} for peer, how in PEERS.items() if peers is not None}


def plot(path: Path) -> None:
    """Draws a file's plot, if there is matplotlib."""
    if find_spec("matplotlib"):
        from benchmarks.kernels.plot import draw  # noqa: PLC0415 - figures are of use without

        draw(path)


def _lora_point(point: LoraPoint) -> dict[str, object]:
    return {
        "name": point.name,
        "model": point.model,
        "phase": point.phase,
        "ranks": list(point.ranks),
        "popularity": point.popularity,
        "rows": point.num_rows,
        "prompts": list(point.prompts),
        "live_adapters": len(point.rows),
    }
