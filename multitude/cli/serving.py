"""`multitude serve`."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from multitude.cli.config import Connection
from multitude.client import Client
from multitude.errors import LocalStackError, MultitudeError
from multitude.local import LocalConfig, LocalStack

_CHECK_SECONDS = 0.5


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--adapters",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of PEFT directories; each is published under PREFIX/<its name>.",
)
@click.option("--model-name", default="", help="What clients and adapters call MODEL; else the directory's name.")
@click.option("--prefix", default="local", show_default=True, help="First part of those adapters' ids.")
@click.option("--workers", "num_workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--policy", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Placement policy file.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Keep the store's adapters here; else they are gone at the end."
)
@click.option("--redis-url", help="A Redis of 6.2 or newer, instead of an embedded one.")
@click.option("--device", help="Device of the workers: cpu or cuda.")
@click.option("--set", "worker_settings", multiple=True, metavar="KEY=VALUE", help="A worker setting; may be repeated.")
@click.pass_obj
def serve(
    connection: Connection,
    model: Path,
    model_name: str,
    adapters: Path | None,
    prefix: str,
    num_workers: int,
    policy: Path | None,
    data_dir: Path | None,
    redis_url: str | None,
    device: str | None,
    worker_settings: tuple[str, ...],
) -> None:
    """Serve the Hugging Face directory MODEL on this machine until Ctrl-C."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    settings = dict(_setting(text) for text in worker_settings)
    if device:
        settings["model.device"] = device
    config = LocalConfig(
        model=model,
        model_name=model_name,
        num_workers=num_workers,
        address=connection.address,
        store_address=connection.store_address,
        data_dir=data_dir,
        redis_url=redis_url,
        policy=policy,
        worker_settings=settings,
    )
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    begin = time.monotonic()
    stack = LocalStack(config, report=lambda line: console.print(f"[dim]{line}[/]"))
    try:
        with stack:
            if adapters is not None:
                _publish(stack, adapters, prefix, console)
            console.print(
                f"[bold]serving {model_name or model.resolve().name}[/] after {time.monotonic() - begin:.1f} s; "
                f"control plane {stack.address}, adapter store {stack.store_address}; Ctrl-C stops"
            )
            while not stopped.wait(_CHECK_SECONDS):
                stack.check()
    except KeyboardInterrupt:
        console.print("[dim]stopped[/]")


def _publish(stack: LocalStack, folder: Path, prefix: str, console: Console) -> None:
    directories = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    if not directories:
        raise LocalStackError(
            f"{folder} holds no PEFT directory; each adapter is a folder with adapter_config.json and "
            "adapter_model.safetensors",
            reason="NO_ADAPTERS_FOUND",
        )
    refused = 0
    with Client(stack.address, store_address=stack.store_address) as client:
        for directory in directories:
            try:
                client.adapters.create(f"{prefix}/{directory.name}", directory)
            except MultitudeError as error:
                refused += 1
                console.print(f"[yellow]not published[/] {directory}: {error.reason}: {error.message}")
    console.print(f"[dim]published {len(directories) - refused} adapters as {prefix}/<name>[/]")


def _setting(text: str) -> tuple[str, object]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
    return key, value
