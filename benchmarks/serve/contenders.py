"""Who serves a call's workloads: engines with and without their ideas, then peers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks.serve.engines import engine_server
from benchmarks.serve.options import Options
from benchmarks.serve.outcome import Run
from benchmarks.serve.peers.peft import peft_server
from benchmarks.serve.peers.vllm import vllm_server
from benchmarks.serve.workload import Item


class Server(Protocol):
    """Serves one workload after the other."""

    def run(self, items: Sequence[Item]) -> Run:
        """Serves one to its end."""
        ...


Start = Callable[[Sequence[Item]], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Contender:
    """One who serves.

    Attributes:
        name: What results call it; empty for the engine as it is.
        start: A warm server for workloads of these requests.
    """

    name: str
    start: Start

    def run_name(self, what: str) -> str:
        """What results call something that it did."""
        return ", ".join(part for part in (what, self.name) if part)


def contenders(options: Options) -> Iterator[Contender]:
    """Those that the call names, in turn."""
    for variant in options.variants:
        yield Contender(variant.name, partial(engine_server, options, variant))
    for peer in options.peers:
        if peer == "peft":
            start: Start = partial(peft_server, options.setup, options.device, options.peft_seconds)
            yield Contender("Hugging Face PEFT", start)
        else:
            start = partial(vllm_server, options.setup, context_length=options.bounds.context_length)
            yield Contender("vLLM", start)
