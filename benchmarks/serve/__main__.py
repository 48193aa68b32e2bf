"""`python -m benchmarks.serve`: serves workloads with dummy weights, prints what they came to, and can write it."""

import gc
import json
import sys
from collections.abc import Mapping
from functools import partial

import torch
from rich.console import Console

from benchmarks import gpu, result
from benchmarks.serve.cold import measure_cold
from benchmarks.serve.contenders import Contender, contenders
from benchmarks.serve.engines import EngineServer, engine_server
from benchmarks.serve.options import Options, parse
from benchmarks.serve.outcome import Summary
from benchmarks.serve.peers.vllm import NotInstalled
from benchmarks.serve.record import Record
from benchmarks.serve.variants import Unified


def main() -> int:
    """One line of JSON for each run, then what has a goal beside it."""
    options = parse()
    torch.set_num_threads(1)
    try:
        records = measure(options)
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 2
    goals = [goal for record in records for goal in record.goals()]
    if goals:
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(result.goal_table(goals))
    return 0 if all(figure.is_met for figure in goals) else 1


def measure(options: Options) -> list[Record]:
    """Serves every workload; files are written as they grow."""
    alone = _record(options, "engine")
    if options.level == "stack":
        whole = _record(options, "stack")
        _measure_stack(options, whole, alone)
        return [whole, alone]
    for contender in contenders(options):
        _serve(options, contender, alone)
        _free_memory(options)
    return [alone]


def _serve(options: Options, contender: Contender, record: Record) -> None:
    works = options.workloads()
    with contender.start([item for items in works.values() for item in items]) as server:
        if isinstance(server, EngineServer):
            _keep(
                options, record, contender.run_name("start"), {**server.start, "num_hosted": len(server.adapters)}, {}
            )
        for workload, items in works.items():
            run = server.run(items)
            _keep(options, record, contender.run_name(workload), run.summary(), run.timeline())
        if options.cold is not None and isinstance(server, EngineServer):
            summary = measure_cold(server.engine, server.adapters, options.setup, options.cold)
            _keep(options, record, contender.run_name("cold adapter"), summary, {})


def _measure_stack(options: Options, whole: Record, alone: Record) -> None:
    """The stack, then the engine alone with the same requests in the same call."""
    from benchmarks.serve.stack import stack_server  # noqa: PLC0415 - an engine alone needs none of what this imports

    works = options.workloads()
    with stack_server(options, [item for items in works.values() for item in items]) as server:
        summaries = {name: server.run(items).summary() for name, items in works.items()}
    _serve(options, Contender("", partial(engine_server, options, Unified())), alone)
    for name, summary in summaries.items():
        engine_rate = alone.runs[name]["figures"]["requests_per_s"]
        by_engine = {
            "engine_requests_per_s": engine_rate,
            "by_engine": round(summary["requests_per_s"] / engine_rate, 3),
        }
        _keep(options, whole, name, summary | by_engine, {})


def _record(options: Options, level: str) -> Record:
    return Record(options.setup.name, level, gpu.word() if options.device.type == "cuda" else "cpu")


def _keep(options: Options, record: Record, name: str, summary: Summary, timeline: Mapping[str, list[float]]) -> None:
    print(f"{record.setup} {record.level} {name}: {json.dumps(summary)}", flush=True)
    machine = gpu.machine(options.commit) if options.device.type == "cuda" else result.this_machine()
    record.add(name, summary, machine=machine, options=options.described(), timeline=timeline)
    if options.out:
        record.write(options.out)


def _free_memory(options: Options) -> None:
    """What a contender had, for the next."""
    gc.collect()
    if options.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
