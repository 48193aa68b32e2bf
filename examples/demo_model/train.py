"""Trains the demo base and all adapters: `python -m examples.demo_model.train [--device cuda]`."""

import argparse
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

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
class Settings:
    """One training run. The same settings on the same device and libraries give the same artefacts."""

    out: Path
    device: str
    jobs: int
    adapter_jobs: int
    seed: int
    base_rows: int
    base: Schedule
    adapter_rows: int
    adapter: Schedule


def _train_one_adapter(task: str, settings: Settings) -> None:
    _prepare(settings.device)
    train_adapter(
        task,
        TASKS[task].adapter,
        settings.adapter,
        settings.adapter_rows,
        base=settings.out / "base",
        folder=settings.out / "adapters" / task,
        seed=settings.seed,
        device=settings.device,
    )


def _prepare(device: str) -> None:
    """TF32 on a GPU: three times the speed, and what is stored is rounded more than that."""
    if device != "cpu":
        torch.set_float32_matmul_precision("high")


def train(settings: Settings) -> None:
    """Base, then adapters side by side, then the fixed prompts, the evaluation and its table."""
    started = time.monotonic()
    _prepare(settings.device)
    for part in ("base", "adapters"):
        shutil.rmtree(settings.out / part, ignore_errors=True)
    rows = base_rows(settings.base_rows, settings.seed, settings.jobs)
    print(f"{len(rows.tokens)} rows for the base after {time.monotonic() - started:.0f} s", flush=True)
    train_base(rows, settings.base, settings.out / "base", seed=settings.seed, device=settings.device)
    with ProcessPoolExecutor(settings.adapter_jobs, mp_context=get_context("spawn")) as pool:
        # The largest first, so that the last to end is a short one.
        names = sorted(TASKS, key=lambda name: (-TASKS[name].adapter.rank, name))
        for done in [pool.submit(_train_one_adapter, name, settings) for name in names]:
            done.result()
    minutes = (time.monotonic() - started) / 60
    print(f"trained in {minutes:.1f} minutes", flush=True)
    write_prompts(settings.out / "prompts.jsonl")
    evaluate(settings.out, device=settings.device)
    write_report(settings.out)


def parse(argv: list[str] | None = None) -> Settings:
    """The command line as settings."""
    cores = os.cpu_count() or 1
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="where base/, adapters/ and the reports are written")
    parser.add_argument("--device", default="cuda" if gpu else "cpu", help="torch device")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=cores, help="processes that make training text")
    parser.add_argument("--adapter-jobs", type=int, default=6 if gpu else 1, help="adapters trained at a time")
    parser.add_argument("--base-rows", type=int, default=300_000, help="rows of 192 tokens, read several times")
    parser.add_argument("--base-steps", type=int, default=12_000)
    parser.add_argument("--base-batch", type=int, default=256, help="rows a step")
    parser.add_argument("--adapter-rows", type=int, default=40_000, help="rows of 64 tokens for each adapter")
    parser.add_argument("--adapter-steps", type=int, default=1_500)
    parser.add_argument("--adapter-batch", type=int, default=128, help="rows a step")
    given = parser.parse_args(argv)
    return Settings(
        out=given.out,
        device=given.device,
        jobs=given.jobs,
        adapter_jobs=given.adapter_jobs,
        seed=given.seed,
        base_rows=given.base_rows,
        base=Schedule(given.base_steps, given.base_batch, learning_rate=2e-3, weight_decay=0.05, warmup=500),
        adapter_rows=given.adapter_rows,
        adapter=Schedule(given.adapter_steps, given.adapter_batch, learning_rate=4e-3),
    )


if __name__ == "__main__":
    train(parse())
