"""Where adapters come in: a bounded number at a time, each in a folder of its own that does not outlive it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapter_store.errors import TooManyUploads
from adapter_store.threads import Threads


class Intake:
    """The folder for uploads under way."""

    def __init__(self, folder: Path, max_concurrent: int, threads: Threads) -> None:
        """Empties the folder: what is there was left by an interrupted process."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._max_concurrent = self._num_free = max_concurrent
        self._all_free = asyncio.Event()
        self._all_free.set()
        self._threads = threads

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Path]:
        """An empty folder for one adapter; gone, with all that is in it, at the end.

        Raises:
            TooManyUploads: All slots are taken.
        """
        if not self._num_free:
            raise TooManyUploads("as many adapters as allowed are being published; try again in a moment")
        self._num_free -= 1
        self._all_free.clear()
        try:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            try:
                yield folder
            finally:
                await self._threads.run(shutil.rmtree, folder)
        finally:
            self._num_free += 1
            if self._num_free == self._max_concurrent:
                self._all_free.set()

    async def wait_empty(self) -> None:
        """Waits until every folder is gone; a call that the server cancelled goes on until it has removed its own."""
        await self._all_free.wait()
