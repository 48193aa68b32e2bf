"""`python -m benchmarks.serve`: serves workloads with dummy weights, prints what they came to, and can write it."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import gpu, result
from benchmarks.result import Figure
from benchmarks.serve.engines import Bounds, engine_of
from benchmarks.serve.run import run
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import SATURATE, decode, saturate, touched

# Requests a second with so many adapters, all of the saturating workload's at once, on an H200.
GOALS: Mapping[tuple[str, int], float] = {
    ("S1", 0): 36.0,
    ("S1", 100): 34.0,
    ("S1", 2000): 32.0,
    ("M2", 0): 62.0,
    ("M2", 200): 45.0,
}


def main() -> int:
    """One line of JSON for each run, then what has a goal beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--setup", choices=list(SETUPS), default="S1")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0], help="how many adapters, for each run")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--decode", type=int, nargs="*", default=[], metavar="ROWS", help="decode batches instead")
    parser.add_argument("--max-running", type=int, default=Bounds.max_running)
    parser.add_argument("--max-step-tokens", type=int, default=Bounds.max_step_tokens)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where serve-<setup>-<gpu>.json goes")
    parser.add_argument("--commit", help="of the tree, where there is no git")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = SETUPS[options.setup]
    bounds = Bounds(options.max_running, options.max_step_tokens)
    if options.decode:
        works = {
            f"decode {rows} rows, {min(rows, n)} adapters": decode(rows, min(rows, n), setup.vocab_size)
            for n in options.adapters
            for rows in options.decode
        }
    else:
        works = {f"n = {n}": saturate(SATURATE, n, setup.vocab_size, options.requests) for n in options.adapters}
    everything = touched([item for items in works.values() for item in items])
    with engine_of(setup, torch.device(options.device), everything, bounds) as (engine, adapters):
        warm = next(iter(works.values()))[:64]
        run(engine, warm, adapters)
        figures = {}
        for name, items in works.items():
            figures[name] = run(engine, items, adapters).summary()
            print(f"{setup.name} {name}: {json.dumps(figures[name])}", flush=True)
    goals = _figures(setup.name, figures)
    if options.out:
        extra = {"setup": setup.name, "num_requests": options.requests, "bounds": asdict(bounds), "runs": figures}
        is_gpu = options.device != "cpu"
        name = f"serve-{setup.name.lower()}-{gpu.word() if is_gpu else 'cpu'}"
        machine = gpu.machine(options.commit) if is_gpu else None
        result.write(name, goals, folder=options.out, machine=machine, extra=extra)
    if goals:
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(result.goal_table(goals))
    return 0 if all(figure.is_met for figure in goals) else 1


def _figures(setup: str, runs: Mapping[str, Mapping[str, float]]) -> list[Figure]:
    """What has a goal."""
    figures = []
    base = runs.get("n = 0")
    for (name, num_adapters), goal in GOALS.items():
        run = runs.get(f"n = {num_adapters}")
        if name != setup or run is None:
            continue
        adapters = f"{num_adapters:,} adapters" if num_adapters else "base only"
        figures.append(Figure(f"{setup}, {adapters}, saturated", run["requests_per_s"], "requests/s", goal))
        if num_adapters == 2000 and base is not None:
            share = round(run["requests_per_s"] / base["requests_per_s"], 3)
            figures.append(Figure(f"{setup}, {adapters} against its own base", share, "ratio", 0.9))
    return figures


if __name__ == "__main__":
    sys.exit(main())
