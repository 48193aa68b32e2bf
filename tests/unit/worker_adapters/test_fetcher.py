"""The fetcher against a scripted store: what it resumes, what it refuses, and when it gives up."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from adapters_for_tests import ref_to

from worker.adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterTooLarge, StoreFailed, StoreUnavailable
from worker.adapters.fetcher import Fetcher, FetchLimits, WeightsChunk

DATA = bytes(range(256)) * 40
REF = ref_to(DATA)
LIMITS = FetchLimits(max_bytes=1 << 20, max_attempts=4, backoff_seconds=0.5, deadline_seconds=10)

Step = WeightsChunk | Exception | asyncio.Event
Script = Callable[[int], list[Step]]


def chunk(start: int, end: int, data: bytes = DATA, total: int | None = None) -> WeightsChunk:
    return WeightsChunk(start, data[start:end], len(data) if total is None else total)


class ScriptedStore:
    """Plays one script an attempt."""

    def __init__(self, *scripts: list[Step]) -> None:
        self.scripts = list(scripts)
        self.offsets: list[int] = []
        self.num_closed = 0

    async def stream(self, digest: str, offset: int) -> AsyncGenerator[WeightsChunk, None]:
        assert digest == REF.digest
        self.offsets.append(offset)
        try:
            for step in self.scripts.pop(0):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.num_closed += 1


class Pauses(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def test_a_whole_stream_is_the_file() -> None:
    store = ScriptedStore([chunk(0, 4000), chunk(4000, 4000), chunk(4000, 10240)])
    assert await Fetcher(store, LIMITS, Pauses()).fetch(REF) == DATA
    assert store.offsets == [0]


async def test_a_broken_stream_is_resumed_where_it_broke() -> None:
    store = ScriptedStore(
        [StoreUnavailable("starting")],
        [chunk(0, 1000), chunk(1000, 3000), StoreUnavailable("gone")],
        [chunk(3000, 9000)],  # ends early without an error
        [chunk(9000, 10240)],
    )
    pauses = Pauses()
    assert await Fetcher(store, LIMITS, pauses).fetch(REF) == DATA
    assert store.offsets == [0, 0, 3000, 9000]
    assert pauses == [0.5, 1.0, 2.0]


async def test_attempts_are_bounded() -> None:
    store = ScriptedStore(*[[StoreUnavailable("connection refused")]] * 9)
    with pytest.raises(StoreUnavailable, match=r"connection refused \(attempt 4, the last\)"):
        await Fetcher(store, LIMITS, Pauses()).fetch(REF)
    assert len(store.offsets) == 4


@pytest.mark.parametrize("error", [AdapterNotFound("no such weights"), StoreFailed("INTERNAL")])
async def test_what_trying_again_does_not_mend_is_not_tried_again(error) -> None:
    store = ScriptedStore([chunk(0, 1000), error])
    with pytest.raises(type(error), match=error.message):
        await Fetcher(store, LIMITS, Pauses()).fetch(REF)
    assert store.offsets == [0]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([chunk(0, 10240, DATA[::-1])], "the store sent sha256:.* for sha256:"),
        ([chunk(0, 1000), chunk(1001, 2000)], "sent 999 bytes at 1001 .* 1000 of 10240 bytes had come"),
        ([chunk(0, 1000), chunk(0, 1000)], "sent 1000 bytes at 0"),
        ([chunk(0, 1000), chunk(1000, 2000, total=9999)], "has 10240 and 9999 bytes"),
        ([chunk(0, 4000, total=3999)], "sent 4000 bytes at 0"),
        ([chunk(0, 5000, total=5000)], "the store sent sha256:"),
        ([WeightsChunk(0, b"", 0)], "the store sent sha256:"),
    ],
)
async def test_wrong_bytes_are_corrupt(script, message) -> None:
    store = ScriptedStore(script)
    with pytest.raises(AdapterCorrupt, match=message):
        await Fetcher(store, LIMITS, Pauses()).fetch(REF)
    assert store.num_closed == 1


async def test_a_file_beyond_the_limit_is_refused_at_its_first_message() -> None:
    store = ScriptedStore([chunk(0, 1, total=(1 << 20) + 1), asyncio.Event()])
    with pytest.raises(AdapterTooLarge, match="has 1048577 bytes and this worker takes 1048576"):
        await Fetcher(store, LIMITS, Pauses()).fetch(REF)
    assert store.num_closed == 1


async def test_a_store_that_stalls_runs_into_the_deadline() -> None:
    store = ScriptedStore([chunk(0, 1000), asyncio.Event()])
    limits = FetchLimits(max_bytes=1 << 20, max_attempts=4, backoff_seconds=0.5, deadline_seconds=0.02)
    with pytest.raises(StoreUnavailable, match=r"1000 bytes of .* in 0\.02 s"):
        await Fetcher(store, limits, Pauses()).fetch(REF)
    assert store.num_closed == 1
