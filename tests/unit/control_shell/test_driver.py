import asyncio
from collections.abc import Sequence

import pytest

from control_plane.core.errors import DuplicateRequest, QueueFull
from control_plane.core.types import (
    Accepted,
    AdapterRef,
    DispatchedRequest,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    FinishReason,
    PositionLogprobs,
    Request,
    RequestArrived,
    RequestCancelled,
    SendBatch,
    SendCancel,
    SequenceOutput,
    Tick,
    Timings,
    Usage,
)
from control_plane.runtime.driver import Driver
from control_plane.runtime.outbox import Outbox
from control_plane.runtime.supervision import keep_running
from control_plane.workers.pacing import CreditPacer


class ScriptedCore:
    """Answers each event with the effects that a test put down for its type."""

    def __init__(self) -> None:
        self.effects: dict[type, list[Effect]] = {}
        self.seen: list[tuple[Event, float]] = []

    def on_event(self, event: Event, now: float) -> Sequence[Effect]:
        self.seen.append((event, now))
        return self.effects.get(type(event), [])


class RecordingLink:
    def __init__(self) -> None:
        self.sent: list[object] = []

    def send_batch(self, requests: Sequence[DispatchedRequest], prefetch: Sequence[AdapterRef]) -> None:
        self.sent.append((tuple(requests), tuple(prefetch)))

    def send_cancel(self, request_id: str) -> None:
        self.sent.append(request_id)


def request(request_id: str = "r") -> Request:
    return Request(request_id, (1,), max_tokens=9, first_token_deadline_s=0)


def output(*token_ids: int, text: str = "", request_id: str = "r") -> Emitted:
    return Emitted(SequenceOutput(request_id, token_ids, text))


FINISHED = Finished("r", FinishReason.STOP, Usage(1, 2), Timings(0.0, 0.1, 0.2))


@pytest.fixture
def core() -> ScriptedCore:
    return ScriptedCore()


@pytest.fixture
def driver(core: ScriptedCore) -> Driver:
    return Driver(core, clock=lambda: 42.0)


async def test_what_comes_while_nobody_takes_is_joined() -> None:
    outbox = Outbox(request())
    outbox.put_started()
    logprobs = (PositionLogprobs(1, -0.5),)
    outbox.put_output(SequenceOutput("r", (1,), "a", logprobs))
    outbox.put_output(SequenceOutput("r", (2, 3), "", (*logprobs, *logprobs)))
    outbox.put_output(SequenceOutput("r", (), "bc"))
    outbox.put_end(FINISHED)
    delivery = await outbox.take()
    assert delivery.is_started
    assert delivery.chunk is not None
    assert (delivery.chunk.token_ids, delivery.chunk.text) == ([1, 2, 3], "abc")
    assert delivery.chunk.logprobs == [*logprobs] * 3
    assert delivery.end is FINISHED


async def test_a_writer_wakes_once_for_everything_of_one_moment() -> None:
    outbox = Outbox(request())
    taken = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put_output(SequenceOutput("r", (1,)))
    outbox.put_output(SequenceOutput("r", (2,)))
    first = await taken
    assert first.chunk is not None
    assert (first.is_started, first.chunk.token_ids, first.end) == (False, [1, 2], None)
    outbox.put_end(FINISHED)
    second = await outbox.take()
    assert (second.is_started, second.chunk, second.end) == (False, None, FINISHED)


async def test_effects_go_where_they_belong(core: ScriptedCore, driver: Driver) -> None:
    link, dispatched = RecordingLink(), DispatchedRequest(request())
    adapter = AdapterRef("t/a", "sha256:0", 1, 1)
    assert driver.attach("w", link)
    assert not driver.attach("w", RecordingLink())
    core.effects[RequestArrived] = [Accepted("r"), SendBatch("w", (dispatched,), (adapter,)), SendCancel("w", "old")]
    outbox = driver.submit(request())
    assert core.seen == [(RequestArrived(request()), 42.0)]
    assert link.sent == [((dispatched,), (adapter,)), "old"]
    core.effects[Tick] = [output(1), output(9, request_id="gone"), SendCancel("nowhere", "x"), FINISHED]
    driver.report(Tick())
    delivery = await outbox.take()
    assert delivery.chunk is not None
    assert (delivery.is_started, delivery.chunk.token_ids, delivery.end) == (True, [1], FINISHED)
    await driver.wait_idle()
    driver.detach("w", link)
    assert driver.attach("w", RecordingLink())


async def test_a_refused_request_ends_with_its_error(core: ScriptedCore, driver: Driver) -> None:
    error = QueueFull("full")
    core.effects[RequestArrived] = [Failed("r", error)]
    delivery = await driver.submit(request()).take()
    assert isinstance(delivery.end, Failed)
    assert delivery.end.error is error
    assert driver.num_requests == 0


async def test_an_id_in_flight_is_refused_and_the_first_is_not_disturbed(core: ScriptedCore, driver: Driver) -> None:
    first = driver.submit(request())
    with pytest.raises(DuplicateRequest):
        driver.submit(request())
    core.effects[Tick] = [output(1), FINISHED]
    driver.report(Tick())
    assert (await first.take()).end is FINISHED


async def test_a_client_that_leaves_is_told_once_and_only_before_the_end(core: ScriptedCore, driver: Driver) -> None:
    outbox = driver.submit(request())
    driver.cancel(outbox)
    driver.cancel(outbox)
    assert [event for event, _ in core.seen] == [RequestArrived(request()), RequestCancelled("r")]
    core.effects[RequestArrived] = [FINISHED]
    driver.cancel(driver.submit(request()))
    assert sum(isinstance(event, RequestCancelled) for event, _ in core.seen) == 1


async def test_a_mistake_of_the_director_is_logged_and_serving_goes_on(
    core: ScriptedCore, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    core.on_event = lambda event, now: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    driver.report(Tick())
    assert "the director failed on Tick" in caplog.text
    with pytest.raises(ZeroDivisionError):
        driver.submit(request())
    assert driver.num_requests == 0


async def test_a_background_loop_that_fails_starts_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("control_plane.runtime.supervision.PAUSE_S", 0)
    num_runs = 0

    async def loop() -> None:
        nonlocal num_runs
        num_runs += 1
        if num_runs < 3:
            raise ValueError("a mistake")

    await keep_running("the loop", loop)
    assert num_runs == 3
    assert caplog.text.count("the loop failed and starts again") == 2


def test_credits_come_back_at_once_when_steps_cost_little() -> None:
    pacer = CreditPacer(share=0.5, longest_delay_s=1.0)
    delays = [pacer.delay(now=1.0 + 0.010 * step, cpu_s=0.001 * step) for step in range(10)]
    assert delays == [0.0] * 10


def test_credits_are_paced_to_the_share_of_the_processor() -> None:
    pacer = CreditPacer(share=0.25, longest_delay_s=1.0)
    now = cpu_s = 0.0
    for _ in range(100):
        # A step message costs 5 ms, and the next one is there as soon as the credit is.
        now, cpu_s = now + 0.005, cpu_s + 0.005
        now += pacer.delay(now, cpu_s)
    assert cpu_s / now == pytest.approx(0.25, rel=0.02)


def test_no_credit_waits_longer_than_the_bound() -> None:
    pacer = CreditPacer(share=0.1, longest_delay_s=0.05)
    assert pacer.delay(now=10.0, cpu_s=100.0) == 0.05
    assert pacer.delay(now=10.05, cpu_s=100.0) == 0.0
