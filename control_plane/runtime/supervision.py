"""Background loops that outlive our own mistakes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger(__name__)

# Between a loop's failure and its new start: a mistake that repeats must not fill the log or the processor.
PAUSE_S: Final = 1.0


async def keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Runs `loop`, and again whenever it fails with an error, which is logged; until it returns or is cancelled."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("%s failed and starts again", name)
            await asyncio.sleep(PAUSE_S)
        else:
            return
