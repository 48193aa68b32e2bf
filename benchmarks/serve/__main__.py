"""`python -m benchmarks.serve`: serves workloads with dummy weights, prints what they came to, and can write it."""

import gc
import json
import sys
from collections.abc import Mapping

import torch
from rich.console import Console

from benchmarks import gpu, result
from benchmarks.serve.cold import ColdTest, measure_cold
from benchmarks.serve.contenders import Contender, contenders
from benchmarks.serve.engines import engine_of
from benchmarks.serve.options import Options, parse
from benchmarks.serve.outcome import Summary
from benchmarks.serve.peers.vllm import NotInstalled
from benchmarks.serve.record import Record


def main() -> int:
    """One line of JSON for each run, then what has a goal beside it."""
    options = parse()
    torch.set_num_threads(1)
    try:
        record = measure(options)
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 2
    goals = record.goals()
    if options.out:
        print(record.write(options.out))
    if goals:
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(result.goal_table(goals))
    return 0 if all(figure.is_met for figure in goals) else 1


def measure(options: Options) -> Record:
    """Serves every workload; the file is written as it grows."""
    record = Record(options.setup.name, "engine", gpu.word() if options.device.type == "cuda" else "cpu")
    if options.cold:
        _measure_cold(options, record)
        return record
    for contender in contenders(options):
        _measure(options, contender, record)
        gc.collect()
        if options.device.type == "cuda":
            torch.cuda.empty_cache()
    return record


def _measure(options: Options, contender: Contender, record: Record) -> None:
    works = options.workloads()
    with contender.start([item for items in works.values() for item in items]) as server:
        for workload, items in works.items():
            name = ", ".join(part for part in (workload, contender.name) if part)
            run = server.run(items)
            _keep(options, record, name, run.summary(), run.timeline())


def _measure_cold(options: Options, record: Record) -> None:
    test = ColdTest()
    others, coming = test.adapters(options.setup)
    with engine_of(options.setup, options.device, others + coming, options.bounds) as server:
        _keep(options, record, "cold adapter", measure_cold(server, options.setup, test), {})


def _keep(options: Options, record: Record, name: str, summary: Summary, timeline: Mapping[str, list[float]]) -> None:
    print(f"{options.setup.name} {name}: {json.dumps(summary)}", flush=True)
    machine = gpu.machine(options.commit) if options.device.type == "cuda" else result.this_machine()
    record.add(name, summary, machine=machine, options=options.described(), timeline=timeline)
    if options.out:
        record.write(options.out)


if __name__ == "__main__":
    sys.exit(main())
