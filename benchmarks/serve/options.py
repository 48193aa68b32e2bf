"""What a call of `python -m benchmarks.serve` asks for."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.serve.cold import ColdTest
from benchmarks.serve.setups import SETUPS, Setup
from benchmarks.serve.variants import NoPrefetch, PaddedBmm, StaticSplit, Unified
from benchmarks.serve.workload import SATURATE, Arrivals, Item, Workloads, decode, open_loop, saturate

GIB = 1 << 30
_VARIANTS = {"unified": Unified(), "static": StaticSplit(), "bmm": PaddedBmm(), "no-prefetch": NoPrefetch()}
_USUAL_REQUESTS = 1000  # the workload file's; other numbers are part of a run's name


@dataclass(frozen=True)
class Bounds:
    """How much an engine takes at once.

    Attributes:
        max_running: Most sequences in a batch.
        max_step_tokens: Most tokens in a step.
        pool_bytes: Of KV and adapters; None: most of what the weights leave of a GPU.
        host_bytes: Of adapters in host memory; None: as many as all of them need.
        context_length: Most tokens of a sequence; those of the workloads have fewer.
    """

    max_running: int = 512
    max_step_tokens: int = 2048
    pool_bytes: int | None = None
    host_bytes: int | None = None
    context_length: int = 1024


@dataclass(frozen=True)
class Options:
    """One call; each field is the command's option of its name."""

    setup: Setup
    adapters: Sequence[int]
    requests: int
    arrivals: Arrivals | None
    decode: Sequence[int]
    cold: ColdTest | None
    level: str
    clients: int
    scratch: Path | None
    bounds: Bounds
    host_all: bool
    variants: Sequence[Unified]
    peers: Sequence[str]
    peft_seconds: float
    device: torch.device
    out: Path | None
    commit: str | None

    def workloads(self) -> Workloads:
        """For each number of adapters, requests all at once or in an open loop; then the batches that decode."""
        vocab_size = self.setup.vocab_size
        works: dict[str, Sequence[Item]] = {}
        for n in self.adapters:
            if self.arrivals is not None:
                works[self._name(f"n = {n}, {self.arrivals}")] = open_loop(self.arrivals, n, vocab_size)
            elif self.requests:
                count = "" if self.requests == _USUAL_REQUESTS else f", {self.requests} requests"
                works[self._name(f"n = {n}{count}")] = saturate(SATURATE, n, vocab_size, self.requests)
        for n in self.adapters:
            for rows in self.decode:
                distinct = min(rows, n)
                name = f"decode {counted(rows, 'row')}" + (f", {counted(distinct, 'adapter')}" if n else "")
                works[self._name(name)] = decode(rows, distinct, vocab_size)
        return works

    def described(self) -> dict[str, object]:
        """For the results' file."""
        return {
            "max_running": self.bounds.max_running,
            "max_step_tokens": self.bounds.max_step_tokens,
            "pool_bytes": self.bounds.pool_bytes,
            "host_bytes": self.bounds.host_bytes,
        }

    def _name(self, workload: str) -> str:
        """A run's name tells what is not as usual."""
        pool, host = self.bounds.pool_bytes, self.bounds.host_bytes
        parts = [workload]
        if pool is not None:
            parts.append(f"pool {pool / GIB:g} GiB")
        if host is not None:
            parts.append(f"host cache {host / GIB:g} GiB")
        if self.host_all:
            parts.append("all in host memory")
        return ", ".join(parts)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description="Serve workloads with dummy weights, and tell what they came to."
    )
    parser.add_argument("--setup", choices=list(SETUPS), default="S1")
    parser.add_argument("--level", choices=("engine", "stack"), default="engine", help="stack: over gRPC, then alone")
    parser.add_argument("--clients", type=int, default=4, help="client processes of a stack (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for a stack's adapters (default: that of temporary files)")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0], metavar="N", help="how many, for each run")
    parser.add_argument(
        "--requests", type=int, default=_USUAL_REQUESTS, help="all at once (default: %(default)s; 0: none)"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="open loop instead: R requests a second")
    parser.add_argument("--cv", type=float, default=1.0, help="of the times between them (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=1.0, help="below 1: some adapters are asked for more often")
    parser.add_argument("--duration", type=float, default=120.0, metavar="S", help="of an open loop")
    parser.add_argument("--decode", type=int, nargs="*", default=[], metavar="ROWS", help="batches that decode, too")
    parser.add_argument("--cold", action="store_true", help="first tokens of adapters in host memory alone, too")
    parser.add_argument("--max-running", type=int, default=Bounds.max_running)
    parser.add_argument("--max-step-tokens", type=int, default=Bounds.max_step_tokens)
    parser.add_argument("--pool-gib", type=float, metavar="GIB", help="a page pool of this size")
    parser.add_argument("--host-gib", type=float, metavar="GIB", help="a host cache of this size, smaller than all")
    parser.add_argument(
        "--host-all", action="store_true", help="all N adapters in host memory, also those not asked for"
    )
    parser.add_argument(
        "--variant", choices=list(_VARIANTS), nargs="*", default=["unified"], help="one after the other"
    )
    parser.add_argument("--adapter-share", type=float, help="of the pool, for the variant static")
    parser.add_argument("--peer", choices=("peft", "vllm"), nargs="*", default=[], help="who serves the same, too")
    parser.add_argument("--peft-seconds", type=float, default=60.0, help="after which PEFT begins no batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the results' file is, or goes")
    parser.add_argument("--commit", help="of the tree, where there is no git")
    given = parser.parse_args(arguments)
    if given.cold and given.host_gib:
        parser.error("--cold needs every adapter in host memory: leave --host-gib out")
    if given.host_all and given.host_gib:
        parser.error("--host-all is every adapter in host memory, --host-gib less: leave one of them out")
    pool_bytes, host_bytes = (int(gib * GIB) if gib else None for gib in (given.pool_gib, given.host_gib))
    return Options(
        setup=SETUPS[given.setup],
        adapters=given.adapters,
        requests=given.requests,
        arrivals=Arrivals(given.rate, given.cv, given.alpha, given.duration) if given.rate else None,
        decode=given.decode,
        cold=ColdTest() if given.cold else None,
        level=given.level,
        clients=given.clients,
        scratch=given.scratch,
        bounds=Bounds(given.max_running, given.max_step_tokens, pool_bytes, host_bytes),
        host_all=given.host_all,
        variants=[_variant(word, given.adapter_share) for word in given.variant],
        peers=given.peer,
        peft_seconds=given.peft_seconds,
        device=torch.device(given.device),
        out=given.out,
        commit=given.commit,
    )


def _variant(word: str, adapter_share: float | None) -> Unified:
    variant = _VARIANTS[word]
    if adapter_share is None or not isinstance(variant, StaticSplit):
        return variant
    return replace(variant, adapter_share=adapter_share)


def counted(count: int, noun: str) -> str:
    """So many of them, in words."""
    return f"{count} {noun}" + ("s" if count != 1 else "")
