"""`python -m benchmarks.serve`: serves workloads with dummy weights, prints what they came to, and can write it."""

import json
import sys

import torch
from rich.console import Console

from benchmarks import gpu, result
from benchmarks.serve.engines import engine_server
from benchmarks.serve.options import Options, parse
from benchmarks.serve.record import Record


def main() -> int:
    """One line of JSON for each run, then what has a goal beside it."""
    options = parse()
    torch.set_num_threads(1)
    record = measure(options)
    goals = record.goals()
    if options.out:
        print(record.write(options.out))
    if goals:
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(result.goal_table(goals))
    return 0 if all(figure.is_met for figure in goals) else 1


def measure(options: Options) -> Record:
    """Serves every workload; the file is written as it grows."""
    on_gpu = options.device.type == "cuda"
    record = Record(options.setup.name, "engine", gpu.word() if on_gpu else "cpu")
    machine = gpu.machine(options.commit) if on_gpu else result.this_machine()
    works = options.workloads()
    everything = [item for items in works.values() for item in items]
    with engine_server(options, everything) as server:
        for name, items in works.items():
            run = server.run(items)
            summary = run.summary()
            print(f"{options.setup.name} {name}: {json.dumps(summary)}", flush=True)
            record.add(name, summary, machine=machine, options=options.described(), timeline=run.timeline())
            if options.out:
                record.write(options.out)
    return record


if __name__ == "__main__":
    sys.exit(main())
