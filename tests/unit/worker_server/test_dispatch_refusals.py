"""What Dispatch refuses: streams that begin wrong, and requests that break the contract, each alone."""

from collections.abc import AsyncIterator

import grpc
import pytest

from multitude.v1 import sampling_pb2, worker_pb2
from tests.unit.worker_server.bench import BASE_MODEL, Bench, adapter, digest, ended, request, running_bench


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_bench() as bench:
        yield bench


@pytest.mark.parametrize(
    ("first", "status", "reason"),
    [
        (worker_pb2.DispatchRequest(batch=worker_pb2.RequestBatch()), "INVALID_ARGUMENT", "STREAM_NOT_ATTACHED"),
        (worker_pb2.DispatchRequest(), "INVALID_ARGUMENT", "STREAM_NOT_ATTACHED"),
        (
            worker_pb2.DispatchRequest(attach=worker_pb2.Attach(base_model="other", step_credit_count=1)),
            "FAILED_PRECONDITION",
            "BASE_MODEL_MISMATCH",
        ),
        (
            worker_pb2.DispatchRequest(attach=worker_pb2.Attach(base_model=BASE_MODEL)),
            "INVALID_ARGUMENT",
            "REQUEST_INVALID",
        ),
    ],
)
async def test_a_stream_that_begins_wrong_is_refused(
    bench: Bench, first: worker_pb2.DispatchRequest, status: str, reason: str
) -> None:
    control_plane = bench.connect()
    await control_plane.call.write(first)
    assert await ended(control_plane) == (grpc.StatusCode[status], reason)


async def test_attaching_twice_ends_the_stream(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.call.write(worker_pb2.DispatchRequest(attach=worker_pb2.Attach()))
    assert await ended(control_plane) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_NOT_ATTACHED")


BAD_REQUESTS = [
    (request(""), "REQUEST_INVALID"),
    (request("r", []), "PROMPT_EMPTY"),
    (request("r", [65, 256]), "TOKEN_OUT_OF_VOCABULARY"),
    (request("r", [-1]), "TOKEN_OUT_OF_VOCABULARY"),
    (request("r", resumed_token_ids=[999]), "TOKEN_OUT_OF_VOCABULARY"),
    (request("r", [65] * 64), "PROMPT_TOO_LONG"),
    (request("r", [65] * 32, resumed_token_ids=[65] * 32, max_tokens=99), "PROMPT_TOO_LONG"),
    (request("r", max_tokens=0), "MAX_TOKENS_OUT_OF_RANGE"),
    (request("r", max_tokens=2, resumed_token_ids=[1, 2]), "MAX_TOKENS_OUT_OF_RANGE"),
    (request("r", logprob_count=21), "REQUEST_INVALID"),
    (request("r", sampling=sampling_pb2.SamplingParams(temperature=2.5)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(temperature=float("nan"))), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(top_k=257)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(top_p=0)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(min_p=-0.1)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(repetition_penalty=0)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(presence_penalty=3)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", sampling=sampling_pb2.SamplingParams(frequency_penalty=-3)), "SAMPLING_OUT_OF_RANGE"),
    (request("r", stop=sampling_pb2.StopConditions(strings=[""])), "STOP_CONDITIONS_INVALID"),
    (request("r", stop=sampling_pb2.StopConditions(strings=["x" * 257])), "STOP_CONDITIONS_INVALID"),
    (request("r", stop=sampling_pb2.StopConditions(strings=["x"] * 17)), "STOP_CONDITIONS_INVALID"),
    (request("r", stop=sampling_pb2.StopConditions(token_ids=[256])), "STOP_CONDITIONS_INVALID"),
    (request("r", adapter=worker_pb2.AdapterRef(adapter_id="t/a", digest="sha256:xyz")), "REQUEST_INVALID"),
    (request("r", adapter=worker_pb2.AdapterRef(digest=digest("a"))), "REQUEST_INVALID"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_REQUESTS)
async def test_a_bad_request_is_refused_alone(bench: Bench, bad: worker_pb2.DispatchedRequest, reason: str) -> None:
    control_plane = await bench.attached()
    await control_plane.send(bad, request("good"))
    ack = await control_plane.read_ack()
    assert list(ack.accepted_request_ids) == ["good"]
    assert [(f.request_id, f.reason, f.code) for f in ack.rejected] == [(bad.request_id, reason, 3)]
    assert ack.rejected[0].message


async def test_the_same_id_twice_is_refused(bench: Bench) -> None:
    control_plane = await bench.attached()
    await control_plane.send(request("r"), request("r"))
    ack = await control_plane.read_ack()
    assert list(ack.accepted_request_ids) == ["r"]
    assert [f.reason for f in ack.rejected] == ["REQUEST_DUPLICATE"]


async def test_a_worker_without_a_store_serves_the_base_model_only() -> None:
    async with running_bench(with_store=False) as bench:
        control_plane = await bench.attached()
        await control_plane.prefetch(digest("a"))
        await control_plane.send(request("r", adapter=adapter("a")))
        assert [f.reason for f in (await control_plane.read_ack()).rejected] == ["ADAPTER_STORE_MISSING"]
