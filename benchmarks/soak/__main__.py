"""`python -m benchmarks.soak`: random load on an engine for some minutes; ends with 1 if anything was wrong."""

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import gpu, result
from benchmarks.result import Figure
from benchmarks.serve import options as serve
from benchmarks.serve.engines import engine_of
from benchmarks.serve.setups import SETUPS, Setup
from benchmarks.soak.load import Bounds
from benchmarks.soak.memory import MIB, MemoryWatch
from benchmarks.soak.run import Soak
from benchmarks.soak.witness import Wrong
from worker.memory.layout import PageGeometry

_RANKS = (1, 2, 3, 8, 16, 40)
_POOL_TOKENS = 1600  # whose KV would fill the pool: fewer than those of the requests at a time
_REPORT_S = 30.0


def main() -> int:
    """A line from time to time, and what was done at the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long (default: 30 on a CPU, 5 on a GPU)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--beside-others", action="store_true", help="who use the GPU: of its memory only torch's is watched"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where soak-<machine>.json goes")
    parser.add_argument("--commit", help="of the tree, where there is no git")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    minutes = options.minutes if options.minutes is not None else (30.0 if device.type == "cpu" else 5.0)
    setup, bounds = setup_for(device), Bounds()
    engine_bounds = engine_bounds_for(setup, device, bounds)
    with engine_of(setup, device, range(bounds.adapters), engine_bounds) as server:
        tolerance = 1e-3 if device.type == "cpu" else 0.1
        watch = MemoryWatch(is_alone=not options.beside_others)
        soak = Soak(server, setup, bounds, random.Random(options.seed), tolerance, watch)
        try:
            soak.run(_until(60 * minutes, soak))
        except Wrong as wrong:
            print(f"seed {options.seed}, period {soak.counts['periods']}: {wrong}", file=sys.stderr)
            return 1
    growth = {name: round(grown / MIB, 1) for name, grown in soak.memory.growth.items()}
    print(f"nothing was wrong in {minutes:g} minutes: {dict(soak.counts)}; growth in MiB: {growth}")
    if options.out:
        is_gpu = device.type == "cuda"
        result.write(
            f"soak-{gpu.word() if is_gpu else 'cpu'}",
            [
                Figure(f"growth of {name} memory after warm-up", grown, "MiB", soak.memory.slack_bytes / MIB, False)
                for name, grown in growth.items()
            ],
            folder=options.out,
            machine=gpu.machine(options.commit) if is_gpu else None,
            extra={
                "minutes": minutes,
                "seed": options.seed,
                "beside_others": options.beside_others,
                "counts": dict(soak.counts),
            },
        )
    return 0


def _until(seconds: float, soak: Soak) -> Callable[[], bool]:
    """Whether so many seconds from now are not over; tells of the soak from time to time."""
    began = reported = time.monotonic()

    def has_time() -> bool:
        nonlocal reported
        now = time.monotonic()
        if now - reported > _REPORT_S:
            reported = now
            print(f"{now - began:6.0f} s  {dict(soak.counts)}", flush=True)
        return now - began < seconds

    return has_time


def setup_for(device: torch.device) -> Setup:
    """Small, with adapters of many ranks."""
    return replace(SETUPS["tiny" if device.type == "cpu" else "small"], ranks=_RANKS)


def engine_bounds_for(setup: Setup, device: torch.device, bounds: Bounds) -> serve.Bounds:
    """A pool that requests and adapters fight for, and host memory for about half of the adapters."""
    geometry = PageGeometry(setup.shape, 16)
    element = 4 if device.type == "cpu" else 2
    page_bytes = geometry.page_elements * setup.shape.num_layers * element
    adapter_pages = [setup.layout(number).num_pages(geometry) for number in range(bounds.adapters)]
    return serve.Bounds(
        max_running=24,
        max_step_tokens=192,
        pool_bytes=(max(_POOL_TOKENS, bounds.context_length) // 16 + 2 * max(adapter_pages)) * page_bytes,
        host_bytes=max(sum(adapter_pages) // 2, *adapter_pages) * page_bytes,
        context_length=bounds.context_length,
    )


if __name__ == "__main__":
    sys.exit(main())
