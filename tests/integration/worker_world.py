"""A worker process with everything around it: a tiny model, adapters, a store that may send rubbish."""

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from multitude.v1 import adapter_pb2, adapter_pb2_grpc
from tests.unit.worker_adapters import adapters_for_tests
from tests.unit.worker_text.tokenizers_for_tests import byte_level
from worker.memory.layout import AdapterLayout, ModelShape
from worker.types import AdapterRef

TREE = Path(__file__).parents[2]
BASE_MODEL = "tiny"
SHAPE = ModelShape(num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48)
CONTEXT_LENGTH = 128


def write_model(folder: Path) -> Tokenizer:
    """A Llama with random weights and a tokenizer that cuts characters in pieces."""
    tokenizer = byte_level()
    torch.manual_seed(7)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        eos_token_id=tokenizer.token_to_id("<|end|>"),
        bos_token_id=None,
        initializer_range=0.3,  # so that the next token depends on the ones before
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def adapter_file(seed: int, rank: int) -> bytes:
    """Canonical weights that change what the model says."""
    ranks = (rank, 0, rank, 0, 2, 0, rank)
    layout = AdapterLayout(SHAPE, (ranks, (0,) * 7), ((1.0,) * 7,) * 2)
    tensors = adapters_for_tests.tensors_of(layout, seed)
    metadata = adapters_for_tests.metadata_of(tensors, scale=0.25) | {"base_model": BASE_MODEL}
    return adapters_for_tests.canonical_file(tensors, metadata)


class Store(adapter_pb2_grpc.AdapterServiceServicer):
    """Sends what it was given, under the digest that it was given."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.address = ""

    def publish(self, name: str, data: bytes, *, sent: bytes | None = None) -> AdapterRef:
        """Names `data`; what is sent under its digest may be something else."""
        ref = adapters_for_tests.ref_to(data, f"team/{name}")
        self.files[ref.digest] = data if sent is None else sent
        return ref

    def FetchWeights(
        self, request: adapter_pb2.FetchWeightsRequest, context: grpc.ServicerContext
    ) -> Iterator[adapter_pb2.FetchWeightsResponse]:
        data = self.files.get(request.digest)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
            return
        for start in range(request.offset_bytes, len(data), 4096):
            yield adapter_pb2.FetchWeightsResponse(
                offset_bytes=start, data=data[start : start + 4096], total_size_bytes=len(data)
            )


@contextmanager
def running_store() -> Iterator[Store]:
    store = Store()
    server = grpc.server(ThreadPoolExecutor(4))
    adapter_pb2_grpc.add_AdapterServiceServicer_to_server(store, server)
    store.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield store
    finally:
        server.stop(None).wait()


class WorkerProcess:
    """`python -m worker` as an operator starts it."""

    def __init__(self, **settings: object) -> None:
        defaults = {
            "listen": "127.0.0.1:0",
            "worker_id": "w1",
            "model.name": BASE_MODEL,
            "redis.url": "",
            "store_address": "",
            "threads": 1,
            "status_interval_s": 60.0,  # so that what a test waits for comes next
            "pool_bytes": 1 << 20,
            "host_cache_bytes": 1 << 20,
            "fetch.backoff_s": 0.01,
        }
        values = defaults | {name.replace("__", "."): value for name, value in settings.items()}
        words = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", *words],
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stderr: list[str] = []
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    def wait_ready(self) -> str:
        """Its address."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready worker "), self.log
        return line.split()[2]

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    @property
    def log(self) -> str:
        return "".join(self.stderr)

    @property
    def engine_pid(self) -> int:
        """The engine process, as the kernel knows it."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def wait_log(self, text: str) -> None:
        """Waits until it has logged something."""
        while text not in self.log:
            assert self._reader.is_alive(), self.log
            self._reader.join(0.01)

    def wait_engine(self) -> int:
        """The engine process, as soon as there is one."""
        pid = self.process.pid
        while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            assert self.process.poll() is None, self.log
            self._reader.join(0.01)
        return int(children[0])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self.stderr.extend(self.process.stderr)


@contextmanager
def worker_process(**settings: object) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(**settings)
    try:
        yield worker
    finally:
        worker.close()


def wait_gone(pid: int) -> None:
    """Waits for the end of a process that is nobody's child any more."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        readable, _, _ = select.select([descriptor], [], [], 20)
        os.close(descriptor)
        assert readable, f"process {pid} was left behind"
