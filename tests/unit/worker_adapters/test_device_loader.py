"""What the loader asks of streams and events, with streams that do nothing until they are told to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from adapters_for_tests import GEOMETRY

from worker.adapters.loader import DeviceLoader
from worker.adapters.residency import Load
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


@dataclass(eq=False)
class Event:
    """A place in a stream."""

    after: int  # copies
    stream: "Stream"

    def query(self) -> bool:
        return self.stream.num_done >= self.after

    def synchronize(self) -> None:
        self.stream.num_done = max(self.stream.num_done, self.after)


@dataclass(eq=False)
class Stream:
    """Counts copies, of which the first `num_done` are done, and notes for what it waits."""

    num_copies: int = 0
    num_done: int = 0
    waits: list[object] = field(default_factory=list)

    def record_event(self) -> Event:
        return Event(self.num_copies, self)

    def wait_event(self, event: Event) -> None:
        self.waits.append(event.after)

    def wait_stream(self, stream: "Stream") -> None:
        self.waits.append(stream)


@dataclass
class Device:
    """The loader's surroundings. `copied` lists the pool pages of every copy in the order of the stream."""

    copies: Stream
    steps: Stream
    loader: DeviceLoader
    copied: list[tuple[int, ...]]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    copies, steps = Stream(), Stream()
    copied: list[tuple[int, ...]] = []

    @contextmanager
    def current(_stream: Stream) -> Iterator[None]:
        yield

    def copy(_arena: object, _storage: object, _host_pages: object, pool_pages: tuple[int, ...]) -> None:
        copies.num_copies += 1
        copied.append(tuple(pool_pages))

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: copies)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: steps)
    monkeypatch.setattr(HostArena, "pin", lambda _arena: None)
    monkeypatch.setattr(HostArena, "copy_to_pool", copy)
    arena = HostArena.create(ArenaFile.create(tmp_path), 9, GEOMETRY, torch.float32)
    loader = DeviceLoader(arena, PageStorage(GEOMETRY, 30, torch.float32, "cpu"), max_step_pages=3)
    copies.num_copies = 0
    copies.waits.clear()
    copied.clear()
    return Device(copies, steps, loader, copied)


def load(digest: str, first_page: int, num_pages: int = 1, *, after_step: bool = False) -> Load:
    pages = tuple(range(first_page, first_page + num_pages))
    return Load(digest, tuple(range(num_pages)), pages, after_step)


def test_a_step_waits_for_the_last_copy_that_it_needs_and_for_no_later_one(device: Device) -> None:
    device.loader.perform([load("a", 0), load("b", 1), load("c", 2)])
    device.loader.hold_step(lambda: {"a", "b", "unknown"})
    assert device.steps.waits == [2]
    device.loader.hold_step(lambda: {"unknown"})
    assert device.steps.waits == [2]


def test_nothing_is_asked_for_when_nothing_is_on_its_way(device: Device) -> None:
    def unneeded() -> set[str]:
        raise AssertionError

    device.loader.hold_step(unneeded)
    device.loader.perform([load("a", 0)])
    device.copies.num_done = 1
    assert device.loader.take_arrived() == ["a"]
    device.loader.hold_step(unneeded)
    device.loader.finish("a")


def test_only_copies_to_pages_that_a_step_may_still_write_to_wait_for_it(device: Device) -> None:
    device.loader.perform([load("late", 0, after_step=True), load("free", 1)])
    assert device.copied == [(1,), (0,)], "what need not wait goes first"
    assert device.copies.waits == [device.steps]


def test_a_large_adapter_arrives_when_what_is_left_is_hidden_under_a_step(device: Device) -> None:
    device.loader.perform([load("large", 0, num_pages=8), load("small", 9)])
    assert device.copied == [(0, 1, 2, 3, 4), (5, 6, 7), (9,)]
    assert device.loader.take_arrived() == []
    device.copies.num_done = 1
    assert device.loader.take_arrived() == ["large"]
    device.loader.hold_step(lambda: {"large"})
    assert device.steps.waits == [2], "a step that uses it waits for all of it"
    device.loader.finish("large")
    assert device.copies.num_done == 2
    assert device.loader.take_arrived() == []
    device.copies.num_done = 3
    assert device.loader.take_arrived() == ["small"]


def test_of_an_adapter_that_is_copied_again_the_last_copy_counts(device: Device) -> None:
    device.loader.perform([load("a", 0), load("b", 1)])
    device.loader.perform([load("a", 2)])
    device.copies.num_done = 2
    assert device.loader.take_arrived() == ["b"]
    device.loader.hold_step(lambda: {"a"})
    assert device.steps.waits == [3]
    device.copies.num_done = 3
    assert device.loader.take_arrived() == ["a"]
