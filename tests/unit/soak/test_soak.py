"""A soak finds nothing in a sound engine, and what it is for in others."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks.serve.engines import engine_of
from benchmarks.soak import __main__ as command
from benchmarks.soak import memory
from benchmarks.soak.load import Asked, Bounds, requests
from benchmarks.soak.memory import MIB, MemoryWatch
from benchmarks.soak.run import Soak
from benchmarks.soak.witness import Witness, Wrong
from worker.types import EngineRequest, FinishReason, RequestFailure, SequenceOutput, StepResult

CPU = torch.device("cpu")
SETUP = command.setup_for(CPU)
BOUNDS = Bounds(requests=60)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the command: tensors of this size gain nothing from a second thread, and lose much to a busy core."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@contextmanager
def soaking(bounds: Bounds = BOUNDS) -> Iterator[Soak]:
    with engine_of(SETUP, CPU, range(bounds.adapters), command.engine_bounds_for(SETUP, CPU, bounds)) as server:
        yield Soak(server, SETUP, bounds, random.Random(3), tolerance=1e-3)


def test_a_sound_engine_stands_it_and_is_pressed_hard() -> None:
    with soaking() as soak:
        ticks = count()
        soak.run(lambda: next(ticks) < 4)
    counts = soak.counts
    assert counts["periods"] == 4
    assert counts["requests"] == 240
    assert counts["repeated"] == 16
    assert min(counts["preemptions"], counts["cancelled"], counts["refused"]) > 0
    assert counts["adapter loads"] > 2 * BOUNDS.adapters, "adapters come back"


def test_the_load_is_mixed_and_repeats_with_its_seed() -> None:
    asked = list(requests(random.Random(1), SETUP, Bounds(requests=400), 0))
    assert asked == list(requests(random.Random(1), SETUP, Bounds(requests=400), 0))
    adapters = Counter(one.adapter for one in asked)
    assert {None, 0, 1, 23} <= set(adapters) <= {None, *range(24)}
    assert adapters[0] > 3 * adapters[5], "some are asked for more often"
    served = [one.request for one in asked if not one.is_refused]
    assert max(len(request.prompt_token_ids) for request in served) > 200
    assert any(request.resumed_token_ids for request in served)
    assert any(request.stop_token_ids for request in served)
    assert len({request.sampling for request in served}) > 50
    assert {one.request.max_tokens == 0 for one in asked if one.is_refused} == {True, False}


def test_an_adapter_that_is_not_copied_is_found() -> None:
    with soaking() as soak:
        loader = soak.server.engine._loader
        perform, loads = loader.perform, count()
        loader.perform = lambda wanted: perform([one for one in wanted if next(loads) % 2])
        with pytest.raises(Wrong, match="in company"):
            soak.run(lambda: True)


def test_a_page_that_is_not_given_back_is_found() -> None:
    with soaking() as soak:
        pool, releases = soak.server.engine._pool, count()
        release = pool.release
        pool.release = lambda pages, **options: release(list(pages)[next(releases) == 30 :], **options)
        with pytest.raises(AssertionError, match=r"adapters hold|hold KV"):
            soak.period()


def test_a_request_that_is_lost_is_found() -> None:
    with soaking() as soak:
        soak._witness.expect(Asked(EngineRequest("lost", (1,), 2), None))
        with pytest.raises(Wrong, match="lost was lost"):
            soak._witness.take_stories()


def _told(*outputs: SequenceOutput, failures: tuple[RequestFailure, ...] = ()) -> StepResult:
    return StepResult(outputs, failures)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([_told(SequenceOutput("a", (1, 2), finish_reason=FinishReason.LENGTH))] * 2, "after its end"),
        ([_told(SequenceOutput("b", (1,)))], "after its end"),
        ([_told(SequenceOutput("a", (1, 2, 3)))], "asked for 2 tokens and has 3"),
        ([_told(SequenceOutput("a", (1,), finish_reason=FinishReason.LENGTH))], "ended with 1 of 2"),
        ([_told(SequenceOutput("a", (), finish_reason=FinishReason.STOP))], "no stop token"),
        ([_told(SequenceOutput("a", (), finish_reason=FinishReason.CANCELLED))], "by nobody"),
        ([_told(failures=(RequestFailure("a", "WHY", "because"),))], "a failed: WHY: because"),
    ],
)
def test_what_must_not_be_heard(results: list[StepResult], message: str) -> None:
    witness = Witness()
    witness.expect(Asked(EngineRequest("a", (1,), 2), None))
    with pytest.raises(Wrong, match=message):  # noqa: PT012
        for result in results:
            witness.hear(result)


def test_what_may_be_heard() -> None:
    witness = Witness()
    for name in ("a", "b", "c"):
        witness.expect(Asked(EngineRequest(name, (1,), 2), None, is_refused=name == "c"))
    witness.cancel("b")
    assert witness.hear(
        _told(SequenceOutput("a", (1,)), SequenceOutput("b", (), finish_reason=FinishReason.CANCELLED))
    ) == ["b"]
    failure = RequestFailure("c", "WHY", "because")
    assert witness.hear(_told(SequenceOutput("a", (2,), finish_reason=FinishReason.LENGTH), failures=(failure,))) == [
        "a",
        "c",
    ]
    assert [story.token_ids for story in witness.take_stories()] == [[1, 2], [], []]
    witness.expect(replace(Asked(EngineRequest("c", (1,), 2), None), is_refused=True))
    with pytest.raises(Wrong, match="cannot be served, and is"):
        witness.hear(_told(SequenceOutput("c", (1,))))


def test_memory_may_grow_by_the_slack_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([100, 300, 363, 300, 365])
    monkeypatch.setattr(memory, "_held", lambda **_: {"process": next(held) * MIB})
    watch = MemoryWatch(warm_up=2)
    for _ in range(4):
        watch.look()
    assert watch.growth == {"process": 63 * MIB}
    with pytest.raises(Wrong, match=r"process memory grew by 65.0 MiB"):
        watch.look()


@pytest.mark.parametrize(("is_alone", "grown"), [(True, {"torch's": 0, "device": 5 * MIB}), (False, {"torch's": 0})])
def test_beside_others_only_what_is_torchs_is_watched(
    is_alone: bool, grown: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([50, 45])
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory.torch.cuda, "memory_reserved", lambda: 30 * MIB)
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda: (next(free) * MIB, 100 * MIB))
    watch = MemoryWatch(warm_up=1, is_alone=is_alone)
    watch.look()
    watch.look()
    assert {name: bytes_ for name, bytes_ in watch.growth.items() if name != "process"} == grown


def test_the_command_runs_for_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["soak", "--minutes", "0.02", "--device", "cpu", "--out", str(tmp_path)])
    assert command.main() == 0
    written = json.loads((tmp_path / "soak-cpu.json").read_text())
    assert written["counts"]["requests"] >= 150
    assert written["minutes"] == 0.02


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(self: Soak) -> None:
        raise Wrong("a was lost")

    monkeypatch.setattr(Soak, "period", broken)
    monkeypatch.setattr(sys, "argv", ["soak", "--minutes", "1", "--seed", "9", "--device", "cpu"])
    assert command.main() == 1
    assert "seed 9, period 0: a was lost" in capsys.readouterr().err
