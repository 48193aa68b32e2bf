"""`python -m benchmarks.serve`: serves a workload of dummy weights and prints what it came to."""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.serve.engines import Bounds, engine_of
from benchmarks.serve.run import run
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import SATURATE, decode, saturate, touched


def main() -> int:
    """One line of JSON for each run, the first of which is left out of nobody's figures: it warms up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--setup", choices=list(SETUPS), default="S1")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0], help="how many adapters, for each run")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--decode", type=int, nargs="*", default=[], metavar="ROWS", help="decode batches instead")
    parser.add_argument("--max-running", type=int, default=Bounds.max_running)
    parser.add_argument("--max-step-tokens", type=int, default=Bounds.max_step_tokens)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
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
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
