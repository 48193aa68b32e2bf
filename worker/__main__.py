"""`python -m worker [--config FILE] [--set key=value ...]`: runs a worker until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys
from importlib import import_module

from worker.config import WorkerConfig, load_config
from worker.errors import WorkerError
from worker.launch import launched

_BAD_CONFIGURATION = 2


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 after a clean stop, 1 if the engine was lost, 2 if the worker could not be started."""
    try:
        config = load_config(arguments)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("worker").info("configuration: %s", config.model_dump_json())
        return asyncio.run(_run(config))
    except WorkerError as error:
        print(f"worker: {error}", file=sys.stderr)
        return _BAD_CONFIGURATION


async def _run(config: WorkerConfig) -> int:
    stop, is_ready = asyncio.Event(), asyncio.Event()

    def say_ready(address: str) -> None:
        is_ready.set()
        print(f"ready worker {address}", flush=True)

    def end() -> None:
        stop.set()
        if not is_ready.is_set():
            serving.cancel()

    async def start() -> int:
        async with launched(config) as launch:
            service = await asyncio.to_thread(import_module, "worker.service")  # torch: a second or two
            code: int = await service.serve(config, launch, stop, say_ready)
            return code

    serving = asyncio.create_task(start())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        return await serving
    except asyncio.CancelledError:
        return 0  # stopped before it served


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
