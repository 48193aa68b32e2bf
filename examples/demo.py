"""The demo: every service on this machine, every demo adapter, hundreds of streams at once, and each answer checked.

`python -m examples.demo` (what `make demo` runs) exits with 0 only if every stream was whole and every answer right.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, signal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from multitude import AsyncClient, MultitudeError, SamplingParams
from multitude.local import LocalConfig, LocalStack

DEMO_MODEL = Path(__file__).parent / "demo_model"
TEAM = "demo"
BASE = "(base model)"
_REPORT_POLLS, _REPORT_POLL_SECONDS = 20, 0.05  # workers report a few times a second


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, the adapter it goes to (None: the base model) and the right answer."""

    adapter: str | None
    prompt: str
    expected: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the text, or an error; times in ms as the client saw them."""

    question: Question
    text: str
    num_tokens: int
    ttft_ms: float
    tpot_ms: float
    error: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the stream was whole and the text is the expected one."""
        return not self.error and self.text.strip() == self.question.expected


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="CPU workers (default 2)")
    parser.add_argument("--requests", type=int, default=256, help="concurrent streaming requests (default 256)")
    parser.add_argument("--all", action="store_true", help="print every answer, not one for each adapter")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    signal(SIGTERM, lambda *_: signal_interrupt())
    try:
        return _run(options.workers, options.requests, console, show_all=options.all)
    except KeyboardInterrupt:
        console.print("interrupted; every service is stopped")
        return 130
    except MultitudeError as error:
        console.print(f"[bold red]{error.reason}[/]: ", end="")
        console.print(error.message, markup=False)
        return 1


def signal_interrupt() -> None:
    """Ends the demo as Ctrl-C does."""
    raise KeyboardInterrupt


def _run(num_workers: int, num_requests: int, console: Console, *, show_all: bool) -> int:
    begin = time.monotonic()
    config = LocalConfig(
        model=DEMO_MODEL / "base",
        model_name="demo",
        num_workers=num_workers,
        address="127.0.0.1:0",
        store_address="127.0.0.1:0",
        worker_settings={"threads": 1},
    )
    console.print("[bold]starting[/] Redis, the adapter store, the control plane and the workers")
    with LocalStack(config, report=lambda line: console.print(f"[dim]  {line}[/]")) as stack:
        console.print(f"[bold]ready[/] after {time.monotonic() - begin:.1f} s")
        return asyncio.run(_ask_everything(stack, num_requests, console, show_all=show_all))


async def _ask_everything(stack: LocalStack, num_requests: int, console: Console, *, show_all: bool) -> int:
    async with AsyncClient(stack.address, store_address=stack.store_address) as client:
        ranks = await _publish(client, console)
        questions = _questions(num_requests)
        num_adapters = len({question.adapter for question in questions} - {None})
        console.print(
            f"[bold]asking[/] {len(questions)} questions at once, of {num_adapters} adapters and the base model"
        )
        begin = time.monotonic()
        with _progress(console, "answered", len(questions)) as advance:
            answers = await asyncio.gather(*(_ask(client, question, advance) for question in questions))
        seconds = time.monotonic() - begin
        await _print_workers(client, sum(answer.num_tokens for answer in answers), console)
    _print_table(answers, ranks, console, show_all=show_all)
    return _print_totals(answers, seconds, console)


async def _publish(client: AsyncClient, console: Console) -> dict[str, int]:
    """Uploads every demo adapter; returns ranks by name."""
    directories = sorted(path.parent for path in (DEMO_MODEL / "adapters").glob("*/adapter_config.json"))
    ranks = {}
    with _progress(console, "published", len(directories)) as advance:
        for directory in directories:
            published = await client.adapters.create(f"{TEAM}/{directory.name}", directory)
            ranks[directory.name] = published.version.rank
            advance()
    return ranks


def _questions(count: int) -> list[Question]:
    """`count` questions, spread over the adapters and the base model in turn."""
    by_adapter: dict[str | None, list[Question]] = {}
    for line in (DEMO_MODEL / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = Question(row["adapter"], row["prompt"], row["expected"])
        by_adapter.setdefault(question.adapter, []).append(question)
    rounds = max(len(group) for group in by_adapter.values())
    turns = [group[index % len(group)] for index in range(rounds) for group in by_adapter.values()]
    return [turns[index % len(turns)] for index in range(count)]


async def _ask(client: AsyncClient, question: Question, advance: Callable[[], None]) -> Answer:
    adapter = f"{TEAM}/{question.adapter}" if question.adapter else ""
    begin = time.monotonic()
    first = last = begin
    text, num_tokens = "", 0
    try:
        stream = client.stream(
            question.prompt, adapter=adapter, max_tokens=64, sampling=SamplingParams(temperature=0), timeout_s=120
        )
        async for chunk in stream:
            last = time.monotonic()
            first = first if num_tokens else last
            text += chunk.text
            num_tokens += len(chunk.token_ids)
        error = "" if stream.finished else "the stream ended early"
    except MultitudeError as failure:
        error = f"{failure.reason}: {failure.message}"
    advance()
    tpot_ms = (last - first) / (num_tokens - 1) * 1000 if num_tokens > 1 else 0.0
    return Answer(question, text, num_tokens, (first - begin) * 1000, tpot_ms, error)


@contextmanager
def _progress(console: Console, verb: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, one line at the end elsewhere."""
    if not console.is_terminal:
        yield lambda: None
        console.print(f"  {verb} {total}")
        return
    columns = (TextColumn(f"  {verb}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda: bar.advance(task)


async def _print_workers(client: AsyncClient, num_tokens: int, console: Console) -> None:
    """Prints what each worker did, as soon as all of it is reported."""
    fleet = await client.fleet()
    for _ in range(_REPORT_POLLS):
        if sum(worker.num_output_tokens for worker in fleet.workers) >= num_tokens:
            break
        await asyncio.sleep(_REPORT_POLL_SECONDS)
        fleet = await client.fleet()
    for worker in fleet.workers:
        resident = sum(tier == "pool" for tier in worker.resident.values())
        console.print(
            f"  {worker.worker_id}: {worker.num_output_tokens} tokens; {resident} adapters in "
            f"{worker.adapter_pages} of the pool's {worker.total_pages} pages",
            style="dim",
        )


def _print_table(answers: Sequence[Answer], ranks: dict[str, int], console: Console, *, show_all: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("adapter", "rank", "prompt", "answer", "", "right", "TTFT ms", "TPOT ms"):
        table.add_column(column, justify="right" if column in {"rank", "right", "TTFT ms", "TPOT ms"} else "left")
    groups: dict[str | None, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.question.adapter, []).append(answer)
    for adapter in sorted(groups, key=lambda name: (name is None, ranks.get(name or "", 0), name or "")):
        group = groups[adapter]
        wrong = [answer for answer in group if not answer.is_right]
        shown = group if show_all else [*wrong[:5], *group[:1]][: max(1, len(wrong[:5]))]
        for index, answer in enumerate(shown):
            head = index == 0
            table.add_row(
                (adapter or BASE) if head else "",
                str(ranks.get(adapter or "", "-")) if head else "",
                escape(answer.question.prompt),
                escape(answer.error or answer.text.strip()),
                "[green]right[/]" if answer.is_right else f"[bold red]wrong[/], not {escape(answer.question.expected)}",
                f"{len(group) - len(wrong)}/{len(group)}" if head else "",
                f"{statistics.median(item.ttft_ms for item in group):.0f}" if head else "",
                f"{statistics.median(item.tpot_ms for item in group):.1f}" if head else "",
            )
    console.print(table)


def _print_totals(answers: Sequence[Answer], seconds: float, console: Console) -> int:
    right = sum(answer.is_right for answer in answers)
    broken = sum(bool(answer.error) for answer in answers)
    num_tokens = sum(answer.num_tokens for answer in answers)
    colour = "green" if right == len(answers) else "red"
    console.print(
        f"[bold {colour}]{right} of {len(answers)} right[/], {broken} streams broken; {num_tokens} tokens in "
        f"{seconds:.1f} s ({num_tokens / seconds:.0f} tokens/s, {len(answers) / seconds:.0f} requests/s)"
    )
    return 0 if right == len(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
