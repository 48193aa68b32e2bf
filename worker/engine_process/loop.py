"""The engine's own loop: take what has arrived, step, report."""

from collections.abc import Callable
from queue import Empty, SimpleQueue

from worker.engine_process.messages import Cancel, Command, Engine, Submit
from worker.types import StepResult

Inbox = SimpleQueue[Command]


def run_engine(engine: Engine, inbox: Inbox, report: Callable[[StepResult], None]) -> None:
    """Steps the engine as long as it has work, and waits for a command while it has none. Never returns."""
    while True:
        for command in _take(inbox, wait=not engine.has_work):
            _obey(engine, command)
        if engine.has_work:
            report(engine.step())


def _take(inbox: Inbox, *, wait: bool) -> list[Command]:
    commands = [inbox.get()] if wait else []
    while True:
        try:
            commands.append(inbox.get_nowait())
        except Empty:
            return commands


def _obey(engine: Engine, command: Command) -> None:
    match command:
        case Submit(requests):
            for request in requests:
                engine.add(request)
        case Cancel(request_ids):
            for request_id in request_ids:
                engine.cancel(request_id)
