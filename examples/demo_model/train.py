"""Trains the demo base and all adapters: `python -m examples.demo_model.train [--device cuda]`."""

import argparse
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import torch

from examples.demo_model.adapter import train_adapter
from examples.demo_model.base_model import train_base
from examples.demo_model.corpus import base_rows
from examples.demo_model.evaluate import evaluate
from examples.demo_model.fitting import Schedule
from examples.demo_model.prompts import write_prompts
from examples.demo_model.report import write_report
from examples.demo_model.tasks import TASKS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Budget:
    """How much text is made, and how long it is learnt from; rows are of corpus.py's lengths."""

    base_rows: int
    base: Schedule
    adapter_rows: int
    adapter: Schedule


# `full` made what is committed; `small` reads an eighteenth of the text, for a CPU.
BUDGETS = MappingProxyType(
    {
        "full": Budget(
            base_rows=300_000,
            base=Schedule(9_000, 256, learning_rate=2e-3, weight_decay=0.05, warmup=500),
            adapter_rows=40_000,
            adapter=Schedule(1_000, 128, learning_rate=4e-3, warmup=100),
        ),
        "small": Budget(
            base_rows=128_000,
            base=Schedule(4_000, 32, learning_rate=2e-3, weight_decay=0.05, warmup=200),
            adapter_rows=9_600,
            adapter=Schedule(300, 32, learning_rate=4e-3, warmup=50),
        ),
    }
)


@dataclass(frozen=True)
class Settings:
    """One training run; on a CPU the same settings and libraries give the same artefacts."""

    out: Path
    device: str
    jobs: int
    adapter_jobs: int
    seed: int
    budget: Budget


def _train_one_adapter(task: str, settings: Settings) -> None:
    _prepare(settings.device)
    train_adapter(
        task,
        TASKS[task].adapter,
        settings.budget.adapter,
        settings.budget.adapter_rows,
        base=settings.out / "base",
        folder=settings.out / "adapters" / task,
        seed=settings.seed,
        device=settings.device,
    )


def _prepare(device: str) -> None:
    """TF32 on a GPU: faster, and no coarser than the bfloat16 that the base is stored in."""
    if device != "cpu":
        torch.set_float32_matmul_precision("high")


def train(settings: Settings) -> int:
    """Base, then adapters side by side, then fixed prompts, evaluation and table; returns how many prompts fail."""
    started = time.monotonic()
    _prepare(settings.device)
    for part in ("base", "adapters"):
        shutil.rmtree(settings.out / part, ignore_errors=True)
    rows = base_rows(settings.budget.base_rows, settings.seed, settings.jobs)
    print(f"{len(rows.tokens)} rows for the base after {time.monotonic() - started:.0f} s", flush=True)
    train_base(rows, settings.budget.base, settings.out / "base", seed=settings.seed, device=settings.device)
    with ProcessPoolExecutor(settings.adapter_jobs, mp_context=get_context("spawn")) as pool:
        # The largest first, so that the last to end is a short one.
        names = sorted(TASKS, key=lambda name: (-TASKS[name].adapter.rank, name))
        for done in [pool.submit(_train_one_adapter, name, settings) for name in names]:
            done.result()
    minutes = (time.monotonic() - started) / 60
    print(f"trained in {minutes:.1f} minutes", flush=True)
    write_prompts(settings.out / "prompts.jsonl")
    wrong = evaluate(settings.out, device=settings.device)
    write_report(settings.out)
    return wrong


def parse(argv: list[str] | None = None) -> Settings:
    """The command line as settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where all is written (default: beside this file)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--budget", choices=BUDGETS, help="how much to learn from (default: full, on a CPU small)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that make training text")
    parser.add_argument("--adapter-jobs", type=int, help="adapters trained at a time (default: 8, on a CPU 1)")
    given = parser.parse_args(argv)
    on_cpu = given.device == "cpu"
    return Settings(
        out=given.out,
        device=given.device,
        jobs=given.jobs,
        adapter_jobs=given.adapter_jobs or (1 if on_cpu else 8),
        seed=given.seed,
        budget=BUDGETS[given.budget or ("small" if on_cpu else "full")],
    )


if __name__ == "__main__":
    wrong = train(parse())
    sys.exit(f"{wrong} of the fixed prompts are answered wrong; train with --budget full" if wrong else 0)
