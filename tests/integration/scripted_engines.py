"""Engines for the engine process that need no model; named here, built there."""

import os
import signal
import threading
from pathlib import Path

from worker.engine_process.messages import BuiltEngine, EngineFacts
from worker.errors import ConfigInvalidError
from worker.types import EngineRequest, FinishReason, SequenceOutput, StepResult

FACTS = EngineFacts(64, 8, 256, frozenset({0}), 10, 4096, 16)
KILL_TOKEN = 66
RAISE_TOKEN = 67


class EchoEngine:
    """Says the prompt, a token a step; some prompts end the process."""

    def __init__(self) -> None:
        self._left: dict[str, list[int]] = {}
        self._cancelled: list[str] = []

    @property
    def has_work(self) -> bool:
        return bool(self._left or self._cancelled)

    def add(self, request: EngineRequest) -> None:
        if KILL_TOKEN in request.prompt_token_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISE_TOKEN in request.prompt_token_ids:
            raise ZeroDivisionError("a mistake of the engine")
        self._left[request.request_id] = list(request.prompt_token_ids)

    def cancel(self, request_id: str) -> None:
        if self._left.pop(request_id, None):
            self._cancelled.append(request_id)

    def step(self) -> StepResult:
        outputs = [SequenceOutput(key, finish_reason=FinishReason.CANCELLED) for key in self._cancelled]
        self._cancelled.clear()
        for key, tokens in list(self._left.items()):
            token = tokens.pop(0)
            if not tokens:
                del self._left[key]
            outputs.append(SequenceOutput(key, (token,), (), None if tokens else FinishReason.LENGTH))
        return StepResult(tuple(outputs))


class EndlessEngine(EchoEngine):
    """Never ends a request by itself."""

    def step(self) -> StepResult:
        for tokens in self._left.values():
            tokens.append(65)
        return super().step()


def build_echo() -> BuiltEngine:
    return BuiltEngine(EchoEngine(), FACTS)


def build_endless() -> BuiltEngine:
    return BuiltEngine(EndlessEngine(), FACTS)


def build_refused() -> BuiltEngine:
    raise ConfigInvalidError("the pool is too small: set pool_bytes to 7", field="pool_bytes")


def build_broken() -> BuiltEngine:
    raise ZeroDivisionError("a mistake of our own")


def build_killed() -> BuiltEngine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def build_stuck(pid_file: Path) -> BuiltEngine:
    """Hangs as it loads, after saying who it is."""
    pid_file.write_text(str(os.getpid()))
    threading.Event().wait()
    raise AssertionError
