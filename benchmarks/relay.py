"""What a control plane can relay: tokens of 500 streams from a worker that computes nothing to a client elsewhere."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.demo_workload import BASE_MODEL, DEMO_MODEL
from benchmarks.result import Figure, Spread
from multitude.local.redis import redis_command

ROOT = Path(__file__).parents[1]
NUM_STREAMS, NUM_TOKENS, ROUNDS, TURNS = 500, 200, 3, 5
# 15,000 tokens/s to 500 streams, and far more than can be sent one by one.
STEP_MS, FAST_STEP_MS = 1000 / 30, 10.0
# Every token in a message of its own, however much of the core that takes.
UNPACED = {"workers.step_cpu_share": 1, "workers.step_delay_s": 0}
# Longer than any output here; the demo's own context is short.
CONTEXT_LENGTH = 65_536


@dataclass(frozen=True)
class Run:
    """One round: what the clients saw, and the CPU seconds of each control plane."""

    num_tokens: int
    num_chunks: int
    seconds: float
    gap_p99_ms: float
    cpu_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """By the clock, from the first call to the last end."""
        return self.num_tokens / self.seconds

    @property
    def tokens_per_cpu_s(self) -> float:
        """What the control planes could relay together with a core each: the sum of tokens by CPU second."""
        return sum(self.num_tokens / len(self.cpu_s) / cpu_s for cpu_s in self.cpu_s)


class _Scene:
    """A Redis, a paced worker and control planes, each a process of its own."""

    def __init__(
        self, folder: Path, num_replicas: int, step_ms: float, settings: Mapping[str, object], stack: ExitStack
    ) -> None:
        self._stack = stack
        redis = folder / "redis.sock"
        self._start(redis_command(redis))
        model = _model(folder / "model")
        words = ["benchmarks.relay_worker", "--base-model", BASE_MODEL, "--step-ms", str(step_ms)]
        worker, _ = self._serve(words)
        settings = {
            **settings,
            "listen": "127.0.0.1:0",
            "model.path": model,
            "model.name": BASE_MODEL,
            "redis.url": f"unix://{redis}",
            "store_address": "",
            "workers.addresses": f"[{worker}]",
            "log_level": "WARNING",
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        started = [self._serve(["control_plane", *words]) for _ in range(num_replicas)]
        self._addresses = [address for address, _ in started]
        self._control_planes = [psutil.Process(process.pid) for _, process in started]

    def run(self, name: str, num_streams: int, num_tokens: int) -> Run:
        """All streams at once, shared out among the control planes; every token is checked by the clients."""
        before = [_cpu_s(process) for process in self._control_planes]
        share = ["--streams", str(num_streams // len(self._addresses)), "--tokens", str(num_tokens)]
        clients = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.relay_client", address, "--prefix", f"{name}-{index}", *share],
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            for index, address in enumerate(self._addresses)
        ]
        seen = [json.loads(client.communicate()[0]) for client in clients]
        return Run(
            num_tokens=sum(each["tokens"] for each in seen),
            num_chunks=sum(each["chunks"] for each in seen),
            seconds=max(each["seconds"] for each in seen),
            gap_p99_ms=max(each["chunk_gap_p99_ms"] for each in seen),
            cpu_s=tuple(_cpu_s(process) - was for process, was in zip(self._control_planes, before, strict=True)),
        )

    def _serve(self, words: list[str]) -> tuple[str, subprocess.Popen[bytes]]:
        process = self._start([sys.executable, "-m", *words])
        assert process.stdout is not None
        return process.stdout.readline().decode().split()[2], process

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@dataclass(frozen=True)
class _Apart:
    """Scenes with a control plane each that have nothing but the machine in common, run as if they were one."""

    scenes: tuple[_Scene, ...]

    def run(self, name: str, num_streams: int, num_tokens: int) -> Run:
        """All at once, each with its share of the streams."""
        share = num_streams // len(self.scenes)
        with ThreadPoolExecutor(len(self.scenes)) as pool:
            runs = list(pool.map(lambda scene: scene.run(f"apart-{name}", share, num_tokens), self.scenes))
        return Run(
            num_tokens=sum(run.num_tokens for run in runs),
            num_chunks=sum(run.num_chunks for run in runs),
            seconds=max(run.seconds for run in runs),
            gap_p99_ms=max(run.gap_p99_ms for run in runs),
            cpu_s=tuple(cpu_s for run in runs for cpu_s in run.cpu_s),
        )


def measure() -> list[Figure]:
    """One control plane with a message for every token; beyond its limits; one and two of them with half of it each.

    On two cores, two control planes and their clients cannot have a core each: what counts is how many tokens each
    relays for a second of its own CPU time, under the same load for each. Two that share nothing, in turn with these,
    say how much of what is missing to twice as many is the machine's.
    """
    with (
        _scene(num_replicas=1, step_ms=STEP_MS, settings=UNPACED) as one,
        _scene(num_replicas=2, step_ms=STEP_MS, settings=UNPACED) as two,
        _scene(num_replicas=1, step_ms=STEP_MS, settings=UNPACED) as other,
    ):
        alone = _rounds(one, NUM_STREAMS, NUM_TOKENS)
        # In turn, so that what else the machine does falls on all.
        apart = _Apart((one, other))
        half, pair, strangers = _in_turn((one, NUM_STREAMS // 2), (two, NUM_STREAMS), (apart, NUM_STREAMS))
    with _scene(num_replicas=1, step_ms=FAST_STEP_MS, settings={}) as scene:
        hurried = _rounds(scene, NUM_STREAMS, NUM_TOKENS * 2)
    by_cpu = Spread(tuple(run.tokens_per_cpu_s for run in alone))
    joined = Spread(tuple(run.tokens_per_s for run in hurried))
    names = (
        f"{NUM_STREAMS} streams, a message for every token, for a second of one core",
        f"{NUM_STREAMS} streams, tokens joined as the control plane falls behind, by the clock",
        f"two replicas with {NUM_STREAMS // 2} streams each against one with as many, for seconds of their own cores",
    )
    offered = NUM_STREAMS / STEP_MS
    ratios = _ratios(pair, half)
    pair_details = {
        "ratio": ratios.summary(),
        "ratio_of_two_that_share_nothing": _ratios(strangers, half).summary(),
        "one": _details(half, offered / 2),
        "two": _details(pair, offered),
        "two_that_share_nothing": _details(strangers, offered),
    }
    return [
        Figure(names[0], round(by_cpu.median), "tokens/s", 15_000, True, _details(alone, offered)),
        Figure(names[1], round(joined.median), "tokens/s", 15_000, True, _details(hurried, NUM_STREAMS / FAST_STEP_MS)),
        Figure(names[2], round(ratios.median, 2), "ratio", 1.8, True, pair_details),
    ]


def _details(runs: list[Run], offered_per_ms: float) -> dict[str, object]:
    return {
        "tokens_offered_per_s": round(offered_per_ms * 1000),
        "tokens_per_s": Spread(tuple(run.tokens_per_s for run in runs)).summary(),
        "tokens_per_cpu_s": Spread(tuple(run.tokens_per_cpu_s for run in runs)).summary(),
        "cores_used": Spread(tuple(sum(run.cpu_s) / run.seconds for run in runs)).summary(),
        "tokens_per_chunk": Spread(tuple(run.num_tokens / run.num_chunks for run in runs)).summary(),
        "chunk_gap_p99_ms": Spread(tuple(run.gap_p99_ms for run in runs)).summary(),
    }


def _ratios(runs: list[Run], baseline: list[Run]) -> Spread:
    """Tokens for a CPU second by those of the baseline in the same turn."""
    return Spread(tuple(run.tokens_per_cpu_s / base.tokens_per_cpu_s for run, base in zip(runs, baseline, strict=True)))


def _rounds(scene: _Scene, num_streams: int, num_tokens: int) -> list[Run]:
    """Repetitions after a short one that warms up."""
    scene.run("warm", num_streams, 20)
    return [scene.run(f"round-{index}", num_streams, num_tokens) for index in range(ROUNDS)]


def _in_turn(*scenes: tuple[_Scene | _Apart, int]) -> list[list[Run]]:
    """Repetitions of scenes with so many streams, one after the other, after a short one of each that warms up."""
    for scene, num_streams in scenes:
        scene.run("warm", num_streams, 20)
    rounds = [
        [scene.run(f"turn-{index}", num_streams, NUM_TOKENS) for scene, num_streams in scenes] for index in range(TURNS)
    ]
    return [list(runs) for runs in zip(*rounds, strict=True)]


@contextmanager
def _scene(*, num_replicas: int, step_ms: float, settings: Mapping[str, object]) -> Iterator[_Scene]:
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="m-") as folder, ExitStack() as stack:
        yield _Scene(Path(folder), num_replicas, step_ms, settings, stack)


def _model(folder: Path) -> Path:
    """The demo model's directory without its weights, for longer outputs."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / "base" / name, folder / name)
    config = json.loads((DEMO_MODEL / "base" / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT_LENGTH}))
    return folder


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
