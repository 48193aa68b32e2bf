"""`multitude generate` and `multitude chat`."""

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from multitude.cli.config import Connection
from multitude.client import GenerationStream
from multitude.errors import CancelledByCallerError, MultitudeError
from multitude.types import Message, SamplingParams, StopConditions


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a generation."""
    for option in reversed(
        (
            click.option("-a", "--adapter", default="", help="Adapter id; none: the base model."),
            click.option("-n", "--max-tokens", type=int, help="Most tokens to generate."),
            click.option("-t", "--temperature", type=float, help="0 is greedy."),
            click.option("--top-k", type=int, help="Keep the k most likely tokens."),
            click.option("--top-p", type=float, help="Keep the smallest set of this probability."),
            click.option("--min-p", type=float, help="Drop tokens less likely than this share of the best."),
            click.option("--repetition-penalty", type=float),
            click.option("--presence-penalty", type=float),
            click.option("--frequency-penalty", type=float),
            click.option("--seed", type=int, help="Makes random draws repeatable."),
            click.option("--stop", "stops", multiple=True, help="Text that ends the output; may be repeated."),
            click.option("--deadline-ms", type=int, default=0, help="Refuse if the first token would come later."),
            click.option("--timeout", "timeout_s", type=float, help="Give up after this many seconds."),
        )
    ):
        function = option(function)
    return function


def _options(values: dict[str, Any]) -> dict[str, Any]:
    names = (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
    )
    return {
        "adapter": values["adapter"],
        "max_tokens": values["max_tokens"],
        "sampling": SamplingParams(**{name: values[name] for name in names}),
        "stop": StopConditions(strings=tuple(values["stops"])),
        "first_token_deadline_ms": values["deadline_ms"],
        "timeout_s": values["timeout_s"],
    }


@click.command()
@click.argument("prompt", required=False)
@sampling_options
@click.option("--logprobs", "logprob_count", type=int, help="Report this many likely tokens at each position (--json).")
@click.option("--stats", is_flag=True, help="Print token counts and times to stderr at the end.")
@click.pass_obj
def generate(
    connection: Connection, /, prompt: str | None, logprob_count: int | None, stats: bool, **values: Any
) -> None:
    """Generate from PROMPT, or from standard input, and print the text as it comes."""
    text = prompt if prompt is not None else sys.stdin.buffer.read().decode("utf-8", "surrogateescape").rstrip("\n")
    with (
        connection.client() as client,
        client.stream(text, logprob_count=logprob_count, **_options(values)) as stream,
    ):
        if connection.output.as_json:
            connection.output.document(stream.result())
            return
        _print_text(stream)
        if stats:
            _print_stats(stream)


@click.command()
@sampling_options
@click.option("--system", help="The system message.")
@click.pass_obj
def chat(connection: Connection, /, system: str | None, **values: Any) -> None:
    """Talk with the model; an empty line or Ctrl-D ends. Ctrl-C stops an answer."""
    options = _options(values)
    messages = [Message("system", system)] if system else []
    console = Console(stderr=True, highlight=False)
    with connection.client() as client:
        while True:
            try:
                line = console.input("[bold cyan]you[/] ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
            except EOFError:
                return
            if not line:
                return
            messages.append(Message("user", line))
            stream = client.stream(tuple(messages), **options)
            try:
                answer = _print_text(stream)
            except (KeyboardInterrupt, CancelledByCallerError):
                stream.cancel()
                messages.pop()
                console.print("[dim](stopped)[/]")
                continue
            except MultitudeError as error:
                messages.pop()
                if not sys.stdin.isatty():
                    raise
                connection.output.report_error(error)
                continue
            messages.append(Message("assistant", answer))


def _print_text(stream: GenerationStream) -> str:
    text = ""
    for chunk in stream:
        text += chunk.text
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return text


def _print_stats(stream: GenerationStream) -> None:
    finished = stream.finished
    if finished is None:
        return
    usage, timings = finished.usage, finished.timings
    decode_ms = timings.finished_ms - timings.first_token_ms
    per_token = f", {decode_ms / (usage.num_output_tokens - 1):.1f} ms per token" if usage.num_output_tokens > 1 else ""
    click.echo(
        f"{usage.num_prompt_tokens} prompt tokens, {usage.num_output_tokens} output tokens ({finished.reason.value}); "
        f"first token after {timings.first_token_ms:.0f} ms{per_token}",
        err=True,
    )
