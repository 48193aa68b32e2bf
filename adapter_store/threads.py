"""Blocking work off the event loop, never abandoned half way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A bounded set of threads."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function` in a thread.

        A cancelled caller is cancelled once the function has returned: what the caller then closes or removes is not in
        use any more.
        """
        call = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise

    def close(self) -> None:
        """Waits for what is running and ends the threads."""
        self._executor.shutdown()
