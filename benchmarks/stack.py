"""What the stack costs: the same requests over gRPC through the control plane, and on an engine called directly."""

import asyncio
import multiprocessing
import time
from collections.abc import Sequence

import psutil

from benchmarks.demo_workload import BASE_MODEL, DEMO_MODEL, DemoEngine, Work, adapter_directories, crowd, tokenised
from benchmarks.result import Figure, Spread
from multitude import AsyncClient, SamplingParams, StopConditions
from multitude.local import LocalConfig, LocalStack

NUM_REQUESTS, NUM_ADAPTERS, NUM_TOKENS, ROUNDS = 64, 16, 200, 5


def measure() -> list[Figure]:
    """The engine in a process of its own, then the stack with one worker; one engine thread in both."""
    works = crowd(NUM_REQUESTS, NUM_ADAPTERS, NUM_TOKENS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        direct = Spread(tuple(pool.apply(_direct, (works,))))
    config = LocalConfig(
        model=DEMO_MODEL / "base",
        model_name=BASE_MODEL,
        address="127.0.0.1:0",
        store_address="127.0.0.1:0",
        worker_settings={"threads": 1, "pool_bytes": 256 << 20},
    )
    with LocalStack(config) as stack:
        rates, cpu_seconds, num_tokens = asyncio.run(_through_the_stack(stack, works))
    through = Spread(tuple(rates))
    return [
        Figure(
            name=f"{NUM_REQUESTS} streams over gRPC through the control plane, tokens/s against the engine alone",
            value=round(through.median / direct.median, 3),
            unit="ratio",
            goal=0.7,
            details={
                "engine_tokens_per_s": direct.summary(),
                "stack_tokens_per_s": through.summary(),
                "cpu_ms_per_1000_tokens": {
                    name: round(seconds / num_tokens * 1e6, 1) for name, seconds in cpu_seconds.items()
                },
            },
        )
    ]


def _direct(works: list[Work]) -> list[float]:
    engine = DemoEngine()
    prompts = tokenised(works)
    rates = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        num_tokens = engine.run(works, prompts)
        rates.append(num_tokens / (time.perf_counter() - begin))
    engine.close()
    return rates[1:]


async def _through_the_stack(stack: LocalStack, works: Sequence[Work]) -> tuple[list[float], dict[str, float], int]:
    async with AsyncClient(stack.address, store_address=stack.store_address) as client:
        for directory in adapter_directories():
            await client.adapters.create(f"demo/{directory.name}", directory)
        await _round(client, works)
        before = cpu_seconds(stack)
        rates, total = [], 0
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            num_tokens = await _round(client, works)
            rates.append(num_tokens / (time.perf_counter() - begin))
            total += num_tokens
        spent = {name: seconds - before[name] for name, seconds in cpu_seconds(stack).items()}
    return rates, spent, total


async def _round(client: AsyncClient, works: Sequence[Work]) -> int:
    async def ask(work: Work) -> int:
        stream = client.stream(
            work.prompt,
            adapter=f"demo/{work.adapter}" if work.adapter else "",
            max_tokens=work.num_tokens,
            sampling=SamplingParams(temperature=0),
            stop=StopConditions(ignore_eos=True),
        )
        return sum([len(chunk.token_ids) async for chunk in stream])

    return sum(await asyncio.gather(*(ask(work) for work in works)))


def cpu_seconds(stack: LocalStack) -> dict[str, float]:
    """CPU time so far of each process, by its part in the stack."""
    seconds = {"client": _own(psutil.Process())}
    for name, pid in stack.pids.items():
        process = psutil.Process(pid)
        seconds[name] = _own(process)
        for child in process.children(recursive=True):
            seconds[f"{name} engine"] = seconds.get(f"{name} engine", 0.0) + _own(child)
    return seconds


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
