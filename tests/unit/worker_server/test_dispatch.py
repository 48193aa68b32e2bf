"""The Dispatch stream: windows, acks, tokens, ends. A real server, a scripted engine."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from multitude.v1 import sampling_pb2, worker_pb2
from tests.unit.worker_server.bench import (
    BASE_MODEL,
    Bench,
    adapter,
    digest,
    ended,
    request,
    running_bench,
    said,
)
from worker.errors import Code, EngineCrashedError
from worker.server import SERVICE_NAME
from worker.types import (
    EngineStats,
    FinishReason,
    PoolResidency,
    PositionLogprobs,
    RequestFailure,
    SequenceOutput,
)

STOP = sampling_pb2.FINISH_REASON_STOP
LENGTH = sampling_pb2.FINISH_REASON_LENGTH
CANCELLED = sampling_pb2.FINISH_REASON_CANCELLED


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_bench() as bench:
        yield bench


async def test_tokens_come_back_as_they_are_made(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1", [65, 66]), request("r2"))
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["r1", "r2"]
    first, second = await bench.engine.wait_submitted(2)
    assert (first.prompt_token_ids, first.stop_token_ids) == ((65, 66), frozenset({0}))
    assert first.request_id != second.request_id

    bench.step(said(first.request_id, "hé"), said(second.request_id, "x"))
    step = await control_plane.read_step()
    assert [(o.request_id, o.text, list(o.token_ids)) for o in step.outputs] == [
        ("r1", "hé", list("hé".encode())),
        ("r2", "x", [120]),
    ]
    bench.step(SequenceOutput(first.request_id, finish_reason=FinishReason.STOP))
    step = await control_plane.read_step()
    assert [(o.request_id, o.text, o.finish_reason) for o in step.outputs] == [("r1", "", STOP)]


async def test_the_first_message_is_a_whole_status(bench: Bench) -> None:
    bench.board.set_host(digest("a"), resident=True)
    bench.step(residency=[PoolResidency(digest("b"), resident=True)], stats=EngineStats(free_pages=7, step_ms=2.0))
    status = await bench.connect().attach()
    assert (status.worker_id, status.base_model, status.request_window) == ("w1", BASE_MODEL, 8)
    assert (status.page_size_bytes, status.block_size_tokens, status.free_page_count) == (4096, 16, 7)
    assert status.step_ms == 2.0
    assert status.is_residency_snapshot
    assert {r.digest: r.tier for r in status.residency} == {
        digest("a"): worker_pb2.RESIDENCY_TIER_HOST,
        digest("b"): worker_pb2.RESIDENCY_TIER_POOL,
    }


async def test_later_statuses_tell_changes(bench: Bench) -> None:
    control_plane = await bench.attached()
    bench.board.set_host(digest("a"), resident=True)
    bench.step(residency=[PoolResidency(digest("a"), resident=True)])
    bench.desk.request_status()
    status = await control_plane.read_status()
    assert not status.is_residency_snapshot
    assert [(r.digest, r.tier) for r in status.residency] == [(digest("a"), worker_pb2.RESIDENCY_TIER_POOL)]
    bench.step(residency=[PoolResidency(digest("a"), resident=False)])
    bench.desk.request_status()
    assert [r.tier for r in (await control_plane.read_status()).residency] == [worker_pb2.RESIDENCY_TIER_HOST]
    bench.board.set_host(digest("a"), resident=False)
    bench.desk.request_status()
    assert [r.tier for r in (await control_plane.read_status()).residency] == [worker_pb2.RESIDENCY_TIER_UNSPECIFIED]
    bench.desk.request_status()
    assert not (await control_plane.read_status()).residency


async def test_without_credit_steps_are_joined(bench: Bench) -> None:
    control_plane = await bench.attached(credits=1)
    await control_plane.send(request("r1", logprob_count=0), request("r2"))
    await control_plane.read_ack()
    one, two = (r.request_id for r in await bench.engine.wait_submitted(2))
    bench.step(SequenceOutput(one, (97,), (PositionLogprobs(97, -0.5),)))
    assert [o.text for o in (await control_plane.read_step()).outputs] == ["a"]

    bench.step(SequenceOutput(one, (98,), (PositionLogprobs(98, -0.25),)))
    bench.step(said(two, "x"))
    bench.step(SequenceOutput(one, (99,), (PositionLogprobs(99, -1.0, ((100, -0.5),)),), FinishReason.LENGTH))
    bench.desk.request_status()
    await control_plane.read_status()  # and no step before it
    await control_plane.credit(1)
    step = await control_plane.read_step()
    assert [(o.request_id, o.text, o.finish_reason) for o in step.outputs] == [("r1", "bc", LENGTH), ("r2", "x", 0)]
    assert [p.chosen.logprob for p in step.outputs[0].logprobs] == [-0.25, -1.0]
    assert step.outputs[0].logprobs[1].top[0].token_id == 100


async def test_a_message_is_bounded_and_the_rest_takes_another_credit() -> None:
    async with running_bench(message_tokens=3) as bench:
        control_plane = await bench.attached(credits=1)
        await control_plane.send(request("r1"))
        await control_plane.read_ack()
        (key,) = (r.request_id for r in await bench.engine.wait_submitted(1))
        bench.step(said(key, "a"))
        assert (await control_plane.read_step()).outputs[0].text == "a"
        for char in "bcde":
            bench.step(said(key, char))
        bench.step(said(key, "f", FinishReason.LENGTH))
        await control_plane.credit(2)
        first, second = await control_plane.read_step(), await control_plane.read_step()
        assert [(o.text, o.finish_reason) for o in first.outputs] == [("bcd", 0)]
        assert [(o.text, o.finish_reason) for o in second.outputs] == [("ef", LENGTH)]


async def test_a_stop_string_across_tokens_ends_the_request(bench: Bench) -> None:
    control_plane = await bench.attached()
    stop = sampling_pb2.StopConditions(strings=["END"])
    await control_plane.send(request("r1", stop=stop, adapter=adapter("a"), max_tokens=30))
    bench.host.land(digest("a"))
    await control_plane.read_ack()
    (key,) = (r.request_id for r in await bench.engine.wait_submitted(1))
    bench.step(said(key, "okE"))
    assert (await control_plane.read_step()).outputs[0].text == "ok"
    bench.step(said(key, "NDxyz"))
    (output,) = (await control_plane.read_step()).outputs
    assert (output.text, bytes(output.token_ids), output.finish_reason) == ("", b"ND", STOP)
    assert await bench.engine.wait_cancelled(1) == [key]
    bench.step(said(key, "more"))
    assert bench.host.leases == [digest("a")]  # the engine may still read its weights
    bench.step(SequenceOutput(key, finish_reason=FinishReason.CANCELLED))
    assert bench.host.leases == []
    bench.desk.request_status()
    await control_plane.read_status()  # nothing more was told of r1
    await control_plane.send(request("r1"))
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["r1"]


async def test_text_held_back_comes_with_the_end(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1", stop=sampling_pb2.StopConditions(strings=["END"])))
    await control_plane.read_ack()
    (key,) = (r.request_id for r in await bench.engine.wait_submitted(1))
    bench.step(said(key, "EN", FinishReason.LENGTH))
    (output,) = (await control_plane.read_step()).outputs
    assert (output.text, output.finish_reason) == ("EN", LENGTH)


async def test_a_resumed_request_repeats_nothing(bench: Bench) -> None:
    control_plane = await bench.attached()
    stop = sampling_pb2.StopConditions(strings=["END"])
    await control_plane.send(request("r1", resumed_token_ids=b"okE", stop=stop))
    await control_plane.read_ack()
    (engine_request,) = await bench.engine.wait_submitted(1)
    assert bytes(engine_request.resumed_token_ids) == b"okE"
    bench.step(said(engine_request.request_id, "x"))
    assert (await control_plane.read_step()).outputs[0].text == "Ex"

    await control_plane.send(request("r2", resumed_token_ids=b"okEND", stop=stop))
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["r2"]
    assert [(o.request_id, o.finish_reason) for o in (await control_plane.read_step()).outputs] == [("r2", STOP)]
    assert len(bench.engine.submitted) == 1


async def test_cancel_ends_a_request_in_the_engine(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1"))
    await control_plane.read_ack()
    (key,) = (r.request_id for r in await bench.engine.wait_submitted(1))
    await control_plane.cancel("r1")
    await control_plane.cancel("unknown")
    assert await bench.engine.wait_cancelled(1) == [key]
    bench.step(SequenceOutput(key, finish_reason=FinishReason.CANCELLED))
    assert [o.finish_reason for o in (await control_plane.read_step()).outputs] == [CANCELLED]


async def test_a_slow_adapter_holds_up_nobody(bench: Bench) -> None:
    bench.host.hosted.add(digest("here"))
    control_plane = await bench.attached()
    await control_plane.send(
        request("slow", adapter=adapter("slow")), request("here", adapter=adapter("here")), request("base")
    )
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["here", "base"]
    assert [r.adapter.digest if r.adapter else "" for r in bench.engine.submitted] == [digest("here"), ""]
    bench.host.land(digest("slow"))
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["slow"]
    assert [r.adapter.digest for r in bench.engine.submitted if r.adapter] == [digest("here"), digest("slow")]


async def test_a_broken_adapter_refuses_its_request_only(bench: Bench) -> None:
    control_plane = await bench.attached()
    bench.host.failing = {digest("bad"): ZeroDivisionError("our own mistake")}
    await control_plane.send(request("r1", adapter=adapter("bad")), request("r2"))
    assert list((await control_plane.read_ack()).accepted_request_ids) == ["r2"]
    bench.host.land(digest("bad"))
    (failure,) = (await control_plane.read_ack()).rejected
    assert (failure.request_id, failure.reason, failure.code) == ("r1", "INTERNAL", Code.INTERNAL)
    assert len(bench.engine.submitted) == 1


async def test_a_mistake_of_our_own_refuses_its_request_only(bench: Bench) -> None:
    control_plane = await bench.attached()
    bench.host.hosted.add(digest("bad"))
    bench.host.failing = {digest("bad"): ZeroDivisionError("our own mistake")}
    await control_plane.send(request("r1"), request("r2", adapter=adapter("bad")), request("r3"))
    ack = await control_plane.read_ack()
    assert list(ack.accepted_request_ids) == ["r1", "r3"]
    assert [(failure.request_id, failure.reason) for failure in ack.rejected] == [("r2", "INTERNAL")]
    assert len(bench.engine.submitted) == 2


async def test_cancel_ends_a_request_that_waits_for_its_adapter(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1", adapter=adapter("slow")))
    await control_plane.cancel("r1")
    assert [o.finish_reason for o in (await control_plane.read_step()).outputs] == [CANCELLED]
    await bench.host.changed.wait()
    assert (bench.host.num_cancelled, bench.engine.submitted) == (1, [])


@pytest.mark.parametrize("half_close", [True, False])
async def test_the_end_of_a_stream_ends_its_requests(bench: Bench, half_close: bool) -> None:
    bench.host.hosted.add(digest("a"))
    leaving, staying = await bench.attached(), await bench.attached()
    await leaving.send(request("r1", adapter=adapter("a")), request("r2", adapter=adapter("slow")))
    await leaving.read_ack()
    await staying.send(request("r1"))
    await staying.read_ack()
    first, second = (r.request_id for r in await bench.engine.wait_submitted(2))
    if half_close:
        await leaving.call.done_writing()
    else:
        leaving.call.cancel()
    assert await bench.engine.wait_cancelled(1) == [first]
    await bench.host.changed.wait()
    assert bench.host.num_cancelled == 1
    assert bench.host.leases == [digest("a")]
    bench.step(SequenceOutput(first, finish_reason=FinishReason.CANCELLED), said(second, "on"))
    assert bench.host.leases == []
    assert [(o.request_id, o.text) for o in (await staying.read_step()).outputs] == [("r1", "on")]


async def test_equal_request_ids_of_two_control_planes_are_two_requests(bench: Bench) -> None:
    one, two = await bench.attached(), await bench.attached()
    for control_plane in (one, two):
        await control_plane.send(request("r"))
        await control_plane.read_ack()
    keys = [r.request_id for r in await bench.engine.wait_submitted(2)]
    bench.step(said(keys[0], "first"), said(keys[1], "second"))
    assert [(await c.read_step()).outputs[0].text for c in (one, two)] == ["first", "second"]


async def test_the_window_is_kept_until_the_end_was_sent() -> None:
    async with running_bench(request_window=1) as bench:
        control_plane = await bench.attached(credits=1)
        await control_plane.send(request("r1"), request("r2"))
        ack = await control_plane.read_ack()
        assert list(ack.accepted_request_ids) == ["r1"]
        assert [(f.request_id, f.reason, f.retryable) for f in ack.rejected] == [
            ("r2", "REQUEST_WINDOW_EXCEEDED", True)
        ]
        (key,) = (r.request_id for r in bench.engine.submitted)
        bench.step(said(key, "a"))
        await control_plane.read_step()
        bench.step(said(key, "b", FinishReason.LENGTH))
        await control_plane.send(request("r3"))
        assert [f.request_id for f in (await control_plane.read_ack()).rejected] == ["r3"]
        await control_plane.credit(1)
        assert (await control_plane.read_step()).outputs[0].finish_reason == LENGTH
        await control_plane.send(request("r4"))
        assert list((await control_plane.read_ack()).accepted_request_ids) == ["r4"]


async def test_a_failure_in_the_engine_is_told_with_what_came_before(bench: Bench) -> None:
    control_plane = await bench.attached(credits=1)
    await control_plane.send(request("r1"), request("r2"))
    await control_plane.read_ack()
    one, two = (r.request_id for r in await bench.engine.wait_submitted(2))
    bench.step(failures=[RequestFailure(two, "POOL_TOO_SMALL", "too long", code=Code.FAILED_PRECONDITION)])
    step = await control_plane.read_step()
    assert [(f.request_id, f.reason, f.code) for f in step.failures] == [
        ("r2", "POOL_TOO_SMALL", grpc.StatusCode.FAILED_PRECONDITION.value[0])
    ]
    bench.step(said(one, "a"))
    bench.step(failures=[RequestFailure(one, "INTERNAL", "oh", retryable=True)])
    await control_plane.credit(1)
    step = await control_plane.read_step()
    assert [(o.request_id, o.text, o.finish_reason) for o in step.outputs] == [("r1", "a", 0)]
    assert [(f.request_id, f.retryable) for f in step.failures] == [("r1", True)]


async def test_a_lost_engine_fails_everything_and_ends_the_stream(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1"), request("r2", adapter=adapter("slow")))
    await control_plane.read_ack()
    bench.lose_engine(EngineCrashedError("the engine process was killed by signal 9"))
    await control_plane.read_status()
    step = await control_plane.read_step()
    assert {(f.request_id, f.reason, f.retryable) for f in step.failures} == {
        ("r1", "ENGINE_CRASHED", True),
        ("r2", "ENGINE_CRASHED", True),
    }
    assert await ended(control_plane) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_CRASHED")
    late = bench.connect()
    await late.call.write(
        worker_pb2.DispatchRequest(attach=worker_pb2.Attach(base_model=BASE_MODEL, step_credit_count=1))
    )
    assert await ended(late) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_CRASHED")


async def test_draining_lets_requests_end(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r1"))
    await control_plane.read_ack()
    (key,) = (r.request_id for r in await bench.engine.wait_submitted(1))
    bench.desk.start_draining()
    await control_plane.read_status()
    await control_plane.send(request("r2"))
    assert [f.reason for f in (await control_plane.read_ack()).rejected] == ["WORKER_DRAINING"]
    bench.step(said(key, "a", FinishReason.LENGTH))
    assert (await control_plane.read_step()).outputs[0].text == "a"
    assert await ended(control_plane) == (grpc.StatusCode.UNAVAILABLE, "WORKER_DRAINING")
    async with asyncio.timeout(10):
        await bench.desk.wait_empty()


async def test_prefetch_hints_reach_the_host_cache(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.prefetch(digest("a"), "nonsense", digest("b"))
    await bench.host.changed.wait()
    assert bench.host.hinted == [digest("a"), digest("b")]


async def test_health_and_reflection(bench: Bench) -> None:
    health = health_pb2_grpc.HealthStub(bench.channel)
    for name in ("", SERVICE_NAME):
        reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    await bench.server.set_serving(serving=False)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
