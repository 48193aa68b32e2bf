"""The engine process: its start, its steps, its end, and nothing left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration import scripted_engines as engines
from tests.integration.worker_world import wait_gone
from worker.engine_process.client import EngineClient
from worker.engine_process.frames import FrameBuffer, encode_frame
from worker.engine_process.messages import BuildEngine
from worker.errors import ConfigInvalidError, EngineCrashedError, EngineStartError, WorkerError
from worker.types import EngineRequest, FinishReason, SequenceOutput, StepResult

TREE = Path(__file__).parents[2]


class Listener:
    """Collects outputs by request, and the engine's end."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[SequenceOutput]] = {}
        self.error: WorkerError | None = None
        self._changed = asyncio.Event()

    def on_step(self, result: StepResult) -> None:
        for output in result.outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        self._changed.set()

    def on_engine_lost(self, error: WorkerError) -> None:
        self.error = error
        self._changed.set()

    async def wait_finished(self, key: str) -> FinishReason:
        async with asyncio.timeout(20):
            while not (reason := self.outputs.get(key) and self.outputs[key][-1].finish_reason):
                self._changed.clear()
                await self._changed.wait()
        assert isinstance(reason, FinishReason)
        return reason

    async def wait_lost(self) -> WorkerError:
        async with asyncio.timeout(20):
            while self.error is None:
                self._changed.clear()
                await self._changed.wait()
        return self.error


@asynccontextmanager
async def started(build: BuildEngine, *, timeout_s: float = 30) -> AsyncIterator[tuple[EngineClient, Listener]]:
    client, listener = await EngineClient.launch(), Listener()
    try:
        await client.build(build, timeout_s=timeout_s)
        client.listen(listener)
        yield client, listener
    finally:
        await client.close()
        assert is_gone(client.pid)


def is_gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


async def test_requests_go_down_and_steps_come_up() -> None:
    async with started(engines.build_echo) as (client, listener):
        assert client.facts == engines.FACTS
        large = tuple([65] * 50_000)
        client.submit([EngineRequest("a", (1, 2, 3), 9), EngineRequest("b", (4,), 9)])
        assert await listener.wait_finished("a") is FinishReason.LENGTH
        assert [output.token_ids for output in listener.outputs["a"]] == [(1,), (2,), (3,)]
        assert [output.token_ids for output in listener.outputs["b"]] == [(4,)]
        client.submit([EngineRequest("c", large, 9), EngineRequest("d", large, 9)])
        client.cancel(["c", "nobody"])
        client.cancel(["d"])
        for key in "cd":
            assert await listener.wait_finished(key) is FinishReason.CANCELLED


async def test_a_mistake_in_a_step_is_the_engines_end() -> None:
    async with started(engines.build_echo) as (client, listener):
        client.submit([EngineRequest("a", (engines.RAISE_TOKEN,), 9)])
        error = await listener.wait_lost()
        assert isinstance(error, EngineCrashedError)
        assert "ended with code 1" in str(error)


async def test_a_killed_engine_is_noticed_also_by_who_listens_late() -> None:
    async with started(engines.build_echo) as (client, listener):
        client.submit([EngineRequest("a", (engines.KILL_TOKEN,), 9)])
        assert "killed by signal 9" in str(await listener.wait_lost())
        await client.wait_gone()
        late = Listener()
        client.listen(late)
        assert isinstance(late.error, EngineCrashedError)
        client.submit([EngineRequest("b", (1,), 9)])  # goes nowhere, and breaks nothing


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (engines.build_refused, ConfigInvalidError, "set pool_bytes to 7"),
        (engines.build_broken, EngineStartError, "ZeroDivisionError: a mistake of our own"),
        (engines.build_killed, EngineStartError, "killed by signal 9 before it was ready"),
    ],
)
async def test_an_engine_that_cannot_start_says_why(build: BuildEngine, kind: type[WorkerError], message: str) -> None:
    with pytest.raises(kind, match=message):
        async with started(build):
            pass


async def test_an_engine_that_is_late_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(EngineStartError, match="not ready after 1 s"):
        async with started(partial(engines.build_stuck, pid_file), timeout_s=1):
            pass
    if pid_file.exists():
        assert is_gone(int(pid_file.read_text()))


async def test_signals_are_left_to_the_server_process() -> None:
    async with started(engines.build_echo) as (client, listener):
        os.kill(client.pid, signal.SIGINT)
        os.kill(client.pid, signal.SIGTERM)
        client.submit([EngineRequest("a", (1,), 9)])
        assert await listener.wait_finished("a") is FinishReason.LENGTH


PARENT = """
import asyncio, sys
from functools import partial
from pathlib import Path
from tests.integration import scripted_engines as engines
from tests.integration.worker_world import wait_gone
from worker.engine_process.client import EngineClient
from worker.types import EngineRequest

class Listener:
    def on_step(self, result): pass
    def on_engine_lost(self, error): pass

async def main():
    client = await EngineClient.launch()
    await client.build(engines.build_endless, timeout_s=30)
    client.listen(Listener())
    client.submit([EngineRequest("a", (1,), 9)])
    print(client.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_busy_engine_dies_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=TREE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_gone(pid)


def test_frames_survive_any_cut() -> None:
    messages = ["a", list(range(1000)), b"x" * 3000, None]
    data = b"".join(encode_frame(message) for message in messages)
    for size in (1, 7, 64, len(data)):
        buffer = FrameBuffer()
        found = [m for start in range(0, len(data), size) for m in buffer.feed(data[start : start + size])]
        assert found == messages
