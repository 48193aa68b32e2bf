"""1,000 adapters behind one worker whose pool holds 50 of them: every one answers right, within the memory budget."""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
from safetensors.torch import load_file, save_file

from benchmarks.demo_workload import BASE_MODEL, DEMO_MODEL, MIB, adapter_directories
from benchmarks.result import Figure
from multitude import AsyncClient, SamplingParams
from multitude.local import LocalConfig, LocalStack

NUM_ADAPTERS, POOL_ADAPTERS, NUM_AT_ONCE = 1000, 50, 64
HOST_CACHE_BYTES = 48 * MIB
_PAGE_BYTES_SLACK = 64 * MIB  # interpreter and allocator growth of two processes over the whole run


@dataclass(frozen=True)
class Question:
    """A prompt for one adapter version, and its right answer."""

    adapter_id: str
    digest: str
    prompt: str
    expected: str


def measure() -> list[Figure]:
    """Publishes the adapters, then asks each one question whose answer only its own task gives."""
    sizes = [(directory / "adapter_model.safetensors").stat().st_size for directory in adapter_directories()]
    pool_bytes = POOL_ADAPTERS * sum(sizes) // len(sizes)
    config = LocalConfig(
        model=DEMO_MODEL / "base",
        model_name=BASE_MODEL,
        address="127.0.0.1:0",
        store_address="127.0.0.1:0",
        worker_settings={"threads": 1, "pool_bytes": pool_bytes, "host_cache_bytes": HOST_CACHE_BYTES},
    )
    with LocalStack(config) as stack:
        return asyncio.run(_measure(stack, pool_bytes))


async def _measure(stack: LocalStack, pool_bytes: int) -> list[Figure]:
    async with AsyncClient(stack.address, store_address=stack.store_address) as client:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            questions = [await _publish(client, Path(folder), index, source) for index, source in enumerate(_sources())]
        publish_s = time.perf_counter() - begin
        memory_before = _resident_bytes(stack)
        begin = time.perf_counter()
        limit = asyncio.Semaphore(NUM_AT_ONCE)
        most_in_pool = most_bytes = 0

        async def ask(question: Question) -> bool:
            async with limit:
                result = await client.generate(
                    question.prompt,
                    adapter=question.adapter_id,
                    max_tokens=64,
                    sampling=SamplingParams(temperature=0),
                    timeout_s=300,
                )
            return result.text.strip() == question.expected and result.adapter_digest == question.digest

        async def watch() -> None:
            nonlocal most_in_pool, most_bytes
            while True:
                (worker,) = (await client.fleet()).workers
                most_in_pool = max(most_in_pool, sum(tier == "pool" for tier in worker.resident.values()))
                most_bytes = max(most_bytes, _resident_bytes(stack))
                await asyncio.sleep(0.2)

        watcher = asyncio.create_task(watch())
        right = sum(await asyncio.gather(*map(ask, questions)))
        watcher.cancel()
        seconds = time.perf_counter() - begin
        grown = max(most_bytes, _resident_bytes(stack)) - memory_before
    details = {
        "publish_s": round(publish_s, 1),
        "answer_s": round(seconds, 1),
        "requests_per_s": round(NUM_ADAPTERS / seconds, 1),
        "pool_bytes": pool_bytes,
        "most_adapters_in_pool": most_in_pool,
        "host_cache_bytes": HOST_CACHE_BYTES,
    }
    budget = HOST_CACHE_BYTES + pool_bytes + _PAGE_BYTES_SLACK
    return [
        Figure(
            f"right answers of {NUM_ADAPTERS} adapters, pool for {POOL_ADAPTERS}",
            right,
            "answers",
            NUM_ADAPTERS,
            details=details,
        ),
        Figure(
            "peak growth of the worker's memory while it serves them",
            round(grown / MIB, 1),
            "MiB",
            budget / MIB,
            at_least=False,
        ),
    ]


def _sources() -> Iterator[Path]:
    directories = adapter_directories()
    for index in range(NUM_ADAPTERS):
        yield directories[index % len(directories)]


async def _publish(client: AsyncClient, folder: Path, index: int, source: Path) -> Question:
    """Publishes a variant of an adapter with other weights and the same function; returns its question and answer.

    A is scaled by a power of two and B by its inverse, which changes no product: another version, the same answers.
    """
    exponent = index // len(adapter_directories()) - 30
    tensors = load_file(source / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        tensor.mul_(2.0**exponent if "lora_A" in name else 2.0**-exponent)
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter_id = f"many/{source.name}-{index}"
    published = await client.adapters.create(adapter_id, folder)
    row = _rows()[source.name][index // len(adapter_directories()) % 20]
    return Question(adapter_id, published.version.digest, row["prompt"], row["expected"])


@cache
def _rows() -> dict[str, list[dict[str, str]]]:
    by_adapter: dict[str, list[dict[str, str]]] = {}
    for line in (DEMO_MODEL / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["adapter"]:
            by_adapter.setdefault(row["adapter"], []).append(row)
    return by_adapter


def _resident_bytes(stack: LocalStack) -> int:
    """Memory of the worker's processes, pages that they share counted once."""
    (worker,) = stack.workers
    process = psutil.Process(worker.pid)
    return sum(int(p.memory_full_info().pss) for p in (process, *process.children(recursive=True)))
