"""What the two processes say to each other besides `StepResult`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from worker.errors import WorkerError
from worker.types import EngineRequest, StepResult


class Engine(Protocol):
    """What the engine process asks of its engine."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do or tell anything."""
        ...

    def add(self, request: EngineRequest) -> None:
        """Takes a request; it ends exactly once, in the result of some step."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a request if it is there; the next step's result says so."""
        ...

    def step(self) -> StepResult:
        """Moves every running sequence on."""
        ...


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the server process has to know of the engine."""

    context_length: int
    max_running: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    total_pages: int
    page_size_bytes: int
    block_size: int


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine ready to step."""

    engine: Engine
    facts: EngineFacts


BuildEngine = Callable[[], BuiltEngine]
"""Loads the model and builds the engine, in the engine process; pickled by name. Raises WorkerError."""


@dataclass(frozen=True, slots=True)
class EngineReady:
    """First message up: the engine waits for requests."""

    facts: EngineFacts


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """First message up, and the last: the engine could not be built."""

    error: WorkerError


@dataclass(frozen=True, slots=True)
class Submit:
    """Requests to run, in the order in which they should start."""

    requests: tuple[EngineRequest, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Requests to end."""

    request_ids: tuple[str, ...]


Command = Submit | Cancel
