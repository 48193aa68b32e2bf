"""`python -m control_plane [--config FILE] [--set key=value ...]`."""

import asyncio
import gc
import logging
import signal
import sys

from control_plane.app import ControlPlane, ListenError
from control_plane.config import ConfigError, ControlPlaneConfig, load_config
from control_plane.policy.problems import PolicyError
from control_plane.runtime.policy_file import PolicyFileError
from control_plane.text.model_directory import ModelDirectoryError

logger = logging.getLogger("control_plane")


def main() -> int:
    """Serves until SIGTERM or SIGINT; a second signal cuts the draining short. Returns the exit code."""
    try:
        config = load_config(sys.argv[1:])
    except ConfigError as error:
        return _refuse(*error.problems)
    logging.basicConfig(
        level=config.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logger.info("config %s", config.model_dump_json())
    try:
        asyncio.run(_serve(config))
    except (ModelDirectoryError, ListenError) as error:
        return _refuse(str(error))
    except PolicyError as error:
        return _refuse(*(f"policy_file: {config.policy_file}: {problem}" for problem in error.problems))
    except PolicyFileError as error:
        return _refuse(f"policy_file: {error}")
    return 0


async def _serve(config: ControlPlaneConfig) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    control_plane = await ControlPlane(config).start()
    # What was loaded so far stays for ever; the collector would walk it again and again, 50 ms at a time.
    gc.collect()
    gc.freeze()
    # Messages are freed as they are sent and hardly any is part of a cycle: the default, 700, takes 8 % of the CPU.
    gc.set_threshold(50_000, 20, 50)
    print(f"ready control_plane {control_plane.address}", flush=True)
    await stop.wait()
    logger.info("draining")
    await control_plane.stop(hurry)


def _refuse(*problems: str) -> int:
    for problem in problems:
        print(f"control_plane: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
