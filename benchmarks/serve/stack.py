"""The whole stack on this machine: store, control plane, one worker and client processes, over gRPC."""

import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.serve.adapter_files import write_peft
from benchmarks.serve.options import Bounds, Options
from benchmarks.serve.outcome import Run
from benchmarks.serve.setups import Setup
from benchmarks.serve.stack_client import Share, adapter_id, serve
from benchmarks.serve.workload import Item, touched
from benchmarks.stack import cpu_seconds
from multitude import AsyncClient
from multitude.local import LocalConfig, LocalStack
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes

_START_S = 300.0  # a large model's graphs are recorded at start
_LEAD_S = 0.5  # from telling clients when to begin until then
_UPLOADS = 8
_CPU_POOL_BYTES = 1 << 26
# Everything goes to the one worker, oldest first, which then decides as an engine alone does.
_POLICY = """
name: benchmark
admission:
  mode: fcfs
  max_queued: 16384
  max_queued_per_tenant: 16384
clustering:
  max_adapters_per_worker: 4096
scorers:
  - name: load
    weight: 1
"""


class StackServer:
    """A running stack that has every adapter in its worker's host memory."""

    def __init__(self, stack: LocalStack, clients: Pool, num_clients: int) -> None:
        self._stack = stack
        self._clients = clients
        self._num_clients = num_clients

    def run(self, items: Sequence[Item]) -> Run:
        """Serves a workload; every client has each so-manieth request of it."""
        before = cpu_seconds(self._stack)
        begin = time.perf_counter() + _LEAD_S
        shares = [
            Share(self._stack.address, self._stack.store_address, items[number :: self._num_clients], begin)
            for number in range(self._num_clients)
        ]
        streams = [stream for served in self._clients.map(serve, shares, chunksize=1) for stream in served]
        spent = {
            f"cpu_s_{name.replace(' ', '_')}": round(seconds - before[name], 2)
            for name, seconds in cpu_seconds(self._stack).items()
            if name != "client"
        }
        seconds = max(stream.last for stream in streams)
        return Run(seconds, streams, sum(len(item.prompt) for item in items), extra=spent)

    def publish(self, setup: Setup, adapters: Sequence[int], folder: Path) -> None:
        """Has the store import dummy adapters, `_UPLOADS` at a time, and the worker fetch each once."""
        asyncio.run(self._publish(setup, adapters, folder))
        self.run([Item(adapter, (1, 2, 3), 1) for adapter in adapters] or [Item(None, (1, 2, 3), 1)])

    async def _publish(self, setup: Setup, adapters: Sequence[int], folder: Path) -> None:
        slots = asyncio.Semaphore(_UPLOADS)

        async def publish(client: AsyncClient, adapter: int) -> None:
            async with slots:
                path = folder / str(adapter)
                await asyncio.to_thread(write_peft, setup, adapter, path)
                await client.adapters.import_(adapter_id(adapter), path.as_uri())
                for file in path.iterdir():  # the store has its own copy
                    file.unlink()

        async with AsyncClient(self._stack.address, store_address=self._stack.store_address) as client:
            await asyncio.gather(*(publish(client, adapter) for adapter in adapters))


@contextmanager
def stack_server(options: Options, items: Sequence[Item]) -> Iterator[StackServer]:
    """A stack with the adapters that `items` use."""
    setup, adapters = options.setup, touched(items)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.scratch) as name, spawn.Pool(options.clients) as clients:
        folder = Path(name)
        write_model(setup, folder / "model")
        (folder / "policy.yaml").write_text(_POLICY, encoding="utf-8")
        (folder / "peft").mkdir()
        config = LocalConfig(
            model=folder / "model",
            model_name=setup.name,
            address="127.0.0.1:0",
            store_address="127.0.0.1:0",
            data_dir=folder / "store",
            policy=folder / "policy.yaml",
            start_seconds=_START_S,
            worker_settings=worker_settings(setup, adapters, options.bounds, options.device),
            store_settings={"import_roots": json.dumps([str(folder / "peft")])},
        )
        with LocalStack(config) as stack:
            server = StackServer(stack, clients, options.clients)
            server.publish(setup, adapters, folder / "peft")
            yield server


def worker_settings(setup: Setup, adapters: Sequence[int], bounds: Bounds, device: torch.device) -> dict[str, object]:
    """A worker's, so that its engine is the one that is measured alone, and its host cache holds every adapter."""
    on_cpu = device.type == "cpu"
    geometry = PageGeometry(setup.shape, 16)
    page_bytes = page_size_bytes(geometry, torch.float32 if on_cpu else torch.bfloat16)
    num_pages = sum(setup.layout(adapter).num_pages(geometry) for adapter in adapters)
    return {
        "model.load_format": "dummy",
        "model.device": device.type,
        "engine.context_length": bounds.context_length,
        "engine.max_running": bounds.max_running,
        "engine.max_step_tokens": bounds.max_step_tokens,
        "engine.max_rank": max(setup.ranks),
        "engine.max_graph_rows": bounds.max_step_tokens,
        "host_cache_bytes": (num_pages + 8) * page_bytes,
        "pool_bytes": bounds.pool_bytes or (_CPU_POOL_BYTES if on_cpu else 0),
        "request_window": 2 * bounds.max_running,
        "threads": 1,
        "fetch.max_loads": _UPLOADS,
        "engine_start_s": _START_S,
    }


def write_model(setup: Setup, folder: Path) -> None:
    """Writes config.json and a byte-level tokenizer with a made-up token for every id."""
    folder.mkdir()
    setup.write_config(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{alphabet[65 + number % 26]}{number}" for number in range(setup.vocab_size)]
    vocabulary = {token: number for number, token in enumerate(tokens[: setup.vocab_size])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": setup.context_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
