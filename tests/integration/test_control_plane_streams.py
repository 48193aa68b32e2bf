"""Requests through a real control plane to scripted workers: tokens, cancels, losses, ends."""

import asyncio
from pathlib import Path

import grpc
import pytest

from multitude.v1 import generation_pb2, sampling_pb2, worker_pb2
from tests.unit.control_shell.fake_store import FakeStore, digest
from tests.unit.control_shell.fake_worker import CANCELLED, LENGTH, STOP, FakeWorker, text, token
from tests.unit.control_shell.running import Answer, error_info, serving
from tests.unit.control_shell.tiny_model import write_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def expected(prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    return [token(prompt, index) for index in range(num_tokens)]


async def test_many_streams_each_get_their_own_tokens(model_path: Path) -> None:
    async with (
        FakeWorker("a", is_generous=True) as one,
        FakeWorker("b", is_generous=True) as other,
        serving(model_path, workers={"addresses": (one.address, other.address)}) as caller,
    ):
        await caller.workers_attached(2)
        prompts = [(number, number + 1) for number in range(40)]
        answers = await asyncio.gather(*(caller.generate(prompt, max_tokens=20) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.token_ids == expected(prompt, 20)
            assert answer.text == text(expected(prompt, 20))
            assert answer.finished.reason == LENGTH
            assert answer.finished.usage == generation_pb2.Usage(prompt_token_count=2, output_token_count=20)
            timings = answer.finished.timings
            assert 0 <= timings.dispatched_ms <= timings.first_token_ms <= timings.finished_ms
        assert one.all_requests
        assert other.all_requests


async def test_a_request_reaches_the_worker_as_it_was_asked(model_path: Path) -> None:
    async with (
        FakeStore() as store,
        FakeWorker("a") as worker,
        serving(model_path, store_address=store.address, workers={"addresses": (worker.address,)}) as caller,
    ):
        store.publish("team/x", 7)
        stream = await worker.next_stream()
        call = caller.open(
            (5, 6),
            request_id="mine",
            adapter="team/x",
            sampling=sampling_pb2.SamplingParams(temperature=0.5, top_k=3, seed=9),
            stop=sampling_pb2.StopConditions(strings=["\n"], token_ids=[2], ignore_eos=True),
            max_tokens=4,
            logprob_count=2,
            priority=-3,
        )
        request = await stream.next_request()
        assert request == worker_pb2.DispatchedRequest(
            request_id="mine",
            adapter=worker_pb2.AdapterRef(adapter_id="team/x", digest=digest(7), rank=8, size_bytes=1000),
            prompt_token_ids=[5, 6],
            sampling=sampling_pb2.SamplingParams(
                temperature=0.5,
                top_k=3,
                top_p=1,
                min_p=0,
                repetition_penalty=1,
                presence_penalty=0,
                frequency_penalty=0,
                seed=9,
            ),
            stop=sampling_pb2.StopConditions(strings=["\n"], token_ids=[2], ignore_eos=True),
            max_tokens=4,
            logprob_count=2,
            priority=-3,
        )
        started = (await call.read()).started
        assert started == generation_pb2.Started(
            request_id="mine", adapter_digest=digest(7), prompt_token_count=2, seed=9
        )
        logprobs = sampling_pb2.PositionLogprobs(
            chosen=sampling_pb2.TokenLogprob(token_id=8, logprob=-0.5),
            top=[
                sampling_pb2.TokenLogprob(token_id=8, logprob=-0.5),
                sampling_pb2.TokenLogprob(token_id=1, logprob=-2),
            ],
        )
        await stream.send_step(
            worker_pb2.SequenceOutput(
                request_id="mine", token_ids=[8], text="!", logprobs=[logprobs], finish_reason=STOP
            )
        )
        chunk = (await call.read()).chunk
        assert chunk == generation_pb2.TokenChunk(token_ids=[8], text="!", logprobs=[logprobs])
        assert (await call.read()).finished.reason == STOP
        assert await call.read() is grpc.aio.EOF


async def test_credits_come_back_and_bound_what_is_sent(model_path: Path) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,), "step_credits": 2}) as caller,
    ):
        stream = await worker.next_stream()
        assert stream.num_credits == stream.attach.step_credit_count == 2
        call = caller.open((3,), max_tokens=50)
        request = await stream.next_request()
        for index in range(50):
            await stream.send_tokens(request, index, index + 1, LENGTH if index == 49 else 0)
        received = [message async for message in call]
        assert [token_id for message in received for token_id in message.chunk.token_ids] == expected((3,), 50)


async def test_a_cancelled_call_is_cancelled_on_its_worker(model_path: Path) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        call = caller.open(max_tokens=50)
        request = await stream.next_request()
        await stream.send_tokens(request, 0, 2)
        await call.read()
        await call.read()
        call.cancel()
        assert await stream.next_cancel() == request.request_id
        assert (await caller.get_fleet()).dispatched_count == 1, "its pages are not free yet"
        await stream.send_step(worker_pb2.SequenceOutput(request_id=request.request_id, finish_reason=CANCELLED))
        await caller.fleet_is(lambda fleet: fleet.dispatched_count == 0)


async def test_a_request_that_waits_is_cancelled_without_a_worker(model_path: Path) -> None:
    async with serving(model_path) as caller:
        call = caller.open()
        await call.read()
        await caller.fleet_is(lambda fleet: fleet.queued_count == 1)
        call.cancel()
        await caller.fleet_is(lambda fleet: fleet.queued_count == 0)


async def test_another_worker_goes_on_where_a_lost_one_stopped(model_path: Path) -> None:
    async with (
        FakeWorker("a") as first,
        FakeWorker("b") as second,
        serving(model_path, workers={"addresses": (first.address, second.address)}) as caller,
    ):
        await caller.workers_attached(2)
        streams = {worker.worker_id: await worker.next_stream() for worker in (first, second)}
        call = caller.open((9,), max_tokens=6)
        fleet = await caller.fleet_is(lambda fleet: fleet.dispatched_count == 1)
        lost_id = next(worker.status.worker_id for worker in fleet.workers if worker.dispatched_count)
        lost, other = (first, second) if lost_id == "a" else (second, first)
        request = await streams[lost_id].next_request()
        await streams[lost_id].send_tokens(request, 0, 4)
        answer = Answer()
        while len(answer.token_ids) < 4:
            answer.add(await call.read())
        await lost.kill()
        resumed = await streams[other.worker_id].next_request()
        assert list(resumed.resumed_token_ids) == expected((9,), 4)
        await streams[other.worker_id].send_tokens(resumed, 4, 6, LENGTH)
        while answer.finished is None:
            answer.add(await call.read())
        assert answer.token_ids == expected((9,), 6)
        assert answer.text == text(expected((9,), 6))
        assert answer.finished.usage.output_token_count == 6
        fleet = await caller.get_fleet()
        assert [view.is_attached for view in fleet.workers] == [True, False]


async def test_a_worker_that_comes_back_is_attached_again(model_path: Path) -> None:
    async with (
        FakeWorker("a", is_generous=True) as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        await caller.workers_attached(1)
        await worker.kill()
        await caller.workers_attached(0)
        answer = asyncio.create_task(caller.generate(max_tokens=3))
        await worker.start()
        assert (await answer).token_ids == expected((1, 2), 3)


async def test_a_worker_failure_is_told_with_its_own_reason(model_path: Path) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        answer = asyncio.create_task(caller.generate())
        request = await stream.next_request()
        failure = worker_pb2.RequestFailure(
            request_id=request.request_id, code=9, reason="ADAPTER_CORRUPT", message="publish it again"
        )
        await stream.send_step(failures=[failure])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error_info(caught.value).reason == "ADAPTER_CORRUPT"
        assert caught.value.details() == "publish it again"


async def test_an_id_in_flight_is_refused_and_can_be_used_afterwards(model_path: Path) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        first = asyncio.create_task(caller.generate(request_id="same", max_tokens=2))
        request = await stream.next_request()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.generate(request_id="same")
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert error_info(caught.value).reason == "DUPLICATE_REQUEST"
        await stream.send_tokens(request, 0, 2, LENGTH)
        assert (await first).token_ids == expected((1, 2), 2)
        again = asyncio.create_task(caller.generate(request_id="same", max_tokens=1))
        await stream.send_tokens(await stream.next_request(), 0, 1, LENGTH)
        assert (await again).token_ids == expected((1, 2), 1)


async def test_a_second_worker_of_the_same_id_is_left_out(model_path: Path) -> None:
    async with (
        FakeWorker("a", is_generous=True) as one,
        FakeWorker("a", is_generous=True) as other,
        serving(model_path, workers={"addresses": (one.address, other.address)}) as caller,
    ):
        await caller.workers_attached(1)
        await asyncio.gather(*(caller.generate(max_tokens=2) for _ in range(10)))
        assert sorted((len(one.all_requests), len(other.all_requests))) == [0, 10]


async def test_a_worker_of_another_base_model_gives_its_reason(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(FakeWorker):
        async def Dispatch(self, request_iterator, context):  # type: ignore[no-untyped-def]
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this worker serves 'other'")

    async with (
        Refusing("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        async with asyncio.timeout(10):
            while "this worker serves 'other'" not in caplog.text:
                await caller.get_fleet()
        assert [view.is_attached for view in (await caller.get_fleet()).workers] == [False]
