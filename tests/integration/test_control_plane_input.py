"""Whatever a caller can get wrong has a status, a stable reason, and the field to change; nothing goes down."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from multitude.v1 import generation_pb2 as pb
from multitude.v1 import sampling_pb2
from tests.unit.control_shell.fake_store import FakeStore, digest
from tests.unit.control_shell.fake_worker import FakeWorker
from tests.unit.control_shell.running import Caller, error_info, serving
from tests.unit.control_shell.tiny_model import write_model

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def rig(model_path: Path) -> AsyncIterator[SimpleNamespace]:
    async with (
        FakeStore() as store,
        FakeWorker("a", is_generous=True) as worker,
        serving(model_path, store_address=store.address, workers={"addresses": (worker.address,)}) as caller,
    ):
        await caller.workers_attached(1)
        yield SimpleNamespace(caller=caller, store=store, worker=worker)


def tokens(*ids: int) -> pb.Prompt:
    return pb.Prompt(token_ids=pb.TokenIds(ids=ids))


def chat(role: str) -> pb.Prompt:
    return pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role=role, content="hi")]))


GOOD = {"prompt": tokens(1)}
WRONG_CALLS = [
    ({}, INVALID, "PROMPT_EMPTY", "prompt"),
    ({"prompt": tokens()}, INVALID, "PROMPT_EMPTY", "prompt"),
    ({"prompt": pb.Prompt(chat=pb.Chat())}, INVALID, "PROMPT_EMPTY", "prompt.chat.messages"),
    ({"prompt": tokens(*[1] * 128)}, INVALID, "PROMPT_TOO_LONG", "prompt"),
    ({"prompt": pb.Prompt(text="x" * 5000)}, INVALID, "PROMPT_TOO_LONG", "prompt"),
    ({"prompt": tokens(1, 257)}, INVALID, "TOKEN_OUT_OF_RANGE", "prompt.token_ids.ids[1]"),
    ({"prompt": tokens(-1)}, INVALID, "TOKEN_OUT_OF_RANGE", "prompt.token_ids.ids[0]"),
    ({"prompt": chat("stranger")}, INVALID, "CHAT_TEMPLATE_FAILED", "prompt.chat"),
    (GOOD | {"max_tokens": 0}, INVALID, "MAX_TOKENS_OUT_OF_RANGE", "max_tokens"),
    (GOOD | {"max_tokens": -1}, INVALID, "MAX_TOKENS_OUT_OF_RANGE", "max_tokens"),
    (GOOD | {"max_tokens": 128}, INVALID, "MAX_TOKENS_OUT_OF_RANGE", "max_tokens"),
    (
        GOOD | {"sampling": sampling_pb2.SamplingParams(top_p=0)},
        INVALID,
        "SAMPLING_OUT_OF_RANGE",
        "sampling.top_p",
    ),
    (
        GOOD | {"sampling": sampling_pb2.SamplingParams(temperature=float("nan"))},
        INVALID,
        "SAMPLING_OUT_OF_RANGE",
        "sampling.temperature",
    ),
    (GOOD | {"stop": sampling_pb2.StopConditions(strings=[""])}, INVALID, "STOP_INVALID", "stop.strings[0]"),
    (GOOD | {"logprob_count": 21}, INVALID, "LOGPROBS_OUT_OF_RANGE", "logprob_count"),
    (GOOD | {"request_id": "x" * 129}, INVALID, "REQUEST_ID_INVALID", "request_id"),
    (GOOD | {"priority": 1000}, INVALID, "PRIORITY_OUT_OF_RANGE", "priority"),
    (
        GOOD | {"service_level": pb.ServiceLevel(first_token_deadline_ms=-1)},
        INVALID,
        "SERVICE_LEVEL_INVALID",
        "service_level.first_token_deadline_ms",
    ),
    (GOOD | {"adapter": "no such name"}, INVALID, "ADAPTER_NAME_INVALID", "adapter"),
    (GOOD | {"adapter": "team/unknown"}, grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", "adapter"),
    (GOOD | {"adapter": f"team/x@{digest(9)}"}, grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", "adapter"),
    (GOOD | {"adapter": "team/other"}, grpc.StatusCode.FAILED_PRECONDITION, "BASE_MODEL_MISMATCH", "adapter"),
]


async def test_every_wrong_request_is_refused_with_its_reason(rig: SimpleNamespace) -> None:
    rig.store.publish("team/x", 1)
    rig.store.publish("team/other", 1, base_model="other")
    for fields, code, reason, field in WRONG_CALLS:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in rig.caller.generation.Generate(pb.GenerateRequest(**fields)):
                pass
        info = error_info(caught.value)
        assert (caught.value.code(), info.reason, info.metadata["field"]) == (code, reason, field)
        assert field in (caught.value.details() or "")
    assert not rig.worker.all_requests
    assert len((await rig.caller.generate(max_tokens=5)).token_ids) == 5, "the control plane is none the worse"


async def test_counting_refuses_as_generating_does_and_counts_the_same(rig: SimpleNamespace) -> None:
    for prompt, reason in ((tokens(), "PROMPT_EMPTY"), (tokens(999), "TOKEN_OUT_OF_RANGE")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.caller.generation.CountTokens(pb.CountTokensRequest(prompt=prompt))
        assert error_info(caught.value).reason == reason
    for prompt in (pb.Prompt(text="h\u00e9llo"), tokens(1, 2, 3), chat("user")):
        counted = await rig.caller.generation.CountTokens(pb.CountTokensRequest(prompt=prompt))
        messages = [
            message async for message in rig.caller.generation.Generate(pb.GenerateRequest(prompt=prompt, max_tokens=1))
        ]
        assert messages[0].started.prompt_token_count == counted.token_count
        assert messages[-1].finished.usage.prompt_token_count == counted.token_count


# A prompt whose text is not UTF-8 is field 3 of a GenerateRequest, and field 1 of a CountTokensRequest.
BROKEN_TEXT = b"\x04\x0a\x02\xff\xfe"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x1a" + BROKEN_TEXT, id="a text that is not UTF-8"),
        pytest.param(b"\x12\x01\x80", id="an adapter that is not UTF-8"),
        pytest.param(b"\xff\xff\xff", id="no message at all"),
    ],
)
async def test_bytes_that_are_no_request_are_refused(rig: SimpleNamespace, data: bytes) -> None:
    call = rig.caller.channel.unary_stream("/multitude.v1.GenerationService/Generate")(data)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is INVALID
    assert error_info(caught.value).reason == "REQUEST_MALFORMED"
    assert "UTF-8" in (caught.value.details() or "")


async def test_bytes_that_are_no_prompt_are_not_counted(rig: SimpleNamespace) -> None:
    count = rig.caller.channel.unary_unary("/multitude.v1.GenerationService/CountTokens")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await count(b"\x0a" + BROKEN_TEXT)
    assert caught.value.code() is INVALID
    assert error_info(caught.value).reason == "REQUEST_MALFORMED"


async def test_our_own_mistakes_are_told_apart_and_logged(
    rig: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("control_plane.server.complete", lambda *_: 1 / 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.caller.generate()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert error_info(caught.value).reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert len((await rig.caller.generate(max_tokens=2)).token_ids) == 2


async def test_models_are_listed_page_by_page_the_base_model_first(rig: SimpleNamespace) -> None:
    for name in ("c", "a", "d", "b"):
        rig.store.publish(f"team/{name}", ord(name))
    rig.store.publish("team/other", 1, base_model="other")
    everything = ["tiny", "team/a", "team/b", "team/c", "team/d"]
    for page_size in (0, 1, 2, 3, 1000):
        listed: list[pb.Model] = []
        token = ""
        while True:
            page = await rig.caller.generation.ListModels(
                pb.ListModelsRequest(page_size=page_size, page_token=token), timeout=10
            )
            listed += page.models
            token = page.next_page_token
            if not token:
                break
        assert [model.id for model in listed] == everything
    assert listed[0] == pb.Model(id="tiny", is_base=True, base_model="tiny", context_length=128)
    assert listed[1] == pb.Model(
        id="team/a", base_model="tiny", context_length=128, adapter_digest=digest(ord("a")), rank=8
    )


@pytest.mark.parametrize(
    "wrong", [{"page_size": -1}, {"page_size": 1001}, {"page_token": "x"}, {"page_token": "adapters:x"}]
)
async def test_a_wrong_page_is_refused(rig: SimpleNamespace, wrong: dict[str, object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.caller.generation.ListModels(pb.ListModelsRequest(**wrong))
    assert (caught.value.code(), error_info(caught.value).reason) == (INVALID, "PAGE_INVALID")


async def test_without_the_store_known_adapters_go_on(rig: SimpleNamespace) -> None:
    rig.store.publish("team/x", 1)
    await rig.caller.generate(adapter="team/x", max_tokens=1)
    await rig.store.stop()
    await rig.caller.generate(adapter=f"team/x@{digest(1)}", max_tokens=1)
    await rig.caller.generate(max_tokens=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.caller.generate(adapter="team/y", max_tokens=1)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(caught.value).reason == "STORE_UNAVAILABLE"


async def test_health_and_reflection_are_served(rig: SimpleNamespace) -> None:
    stub = health_pb2_grpc.HealthStub(rig.caller.channel)
    for service in ("", "multitude.v1.GenerationService", "multitude.v1.FleetService"):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(rig.caller.channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert {"multitude.v1.GenerationService", "multitude.v1.FleetService", "grpc.health.v1.Health"} <= services


async def test_without_a_worker_the_request_fails_after_the_grace_time(model_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: p\nadmission: {no_worker_grace_s: 0.05}\nscorers: [{name: load, weight: 1}]\n")
    async with serving(model_path, policy_file=policy, tick_s=0.01) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.generate()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(caught.value).reason == "NO_WORKER"


async def test_a_full_queue_refuses_with_a_delay(model_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: p\nadmission: {max_queued: 1}\nscorers: [{name: load, weight: 1}]\n")
    async with serving(model_path, policy_file=policy) as caller:
        waiting = caller.open()
        await waiting.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Caller.generate(caller)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_info(caught.value).reason == "QUEUE_FULL"
        waiting.cancel()


async def test_each_of_a_burst_gets_its_reason(model_path: Path) -> None:
    async with serving(model_path) as caller:
        calls = (caller.generate(max_tokens=0) for _ in range(4000))
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, grpc.aio.AioRpcError) for error in errors)
    assert {error.code() for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT}
