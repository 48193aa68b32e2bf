"""The clients against a real server with scripted answers."""

import asyncio

import grpc
import pytest

from multitude import AsyncClient, Client, FinishReason, Message, PolicyCheck, SamplingParams, StopConditions, errors
from multitude.errors import MultitudeError
from tests.unit.client.fake_services import Script, serving


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def client(script):
    with serving(script) as address, Client(address, store_address=address) as client:
        yield client


@pytest.fixture
def peft_dir(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 8192)
    return tmp_path


def test_generate_returns_the_whole(client):
    result = client.generate("hi", adapter="team/a", logprob_count=1)
    assert result.text == "Hello"
    assert result.token_ids == (0, 1, 2)
    assert result.finish_reason is FinishReason.STOP
    assert result.seed == 7
    assert [position.chosen.logprob for position in result.logprobs] == [-0.5] * 3


def test_stream_yields_chunks_as_they_come(client):
    stream = client.stream("hi")
    texts = []
    for chunk in stream:
        assert stream.started is not None
        assert stream.finished is None
        texts.append(chunk.text)
    assert texts == ["Hel", "", "lo"]
    assert stream.finished.usage.num_output_tokens == 3


def test_request_carries_every_field(client, script):
    client.generate(
        [Message("user", "hi")],
        adapter="team/a",
        max_tokens=5,
        sampling=SamplingParams(temperature=0, top_k=3),
        stop=StopConditions(strings=("x",), token_ids=(1,), ignore_eos=True),
        priority=2,
        first_token_deadline_ms=900,
        request_id="mine",
    )
    (request,) = script.requests
    assert request.request_id == "mine"
    assert request.prompt.chat.messages[0].content == "hi"
    assert request.sampling.HasField("temperature")
    assert request.sampling.temperature == 0
    assert not request.sampling.HasField("top_p")
    assert list(request.stop.strings) == ["x"]
    assert request.max_tokens == 5
    assert request.service_level.first_token_deadline_ms == 900


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, errors.ConflictError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.INTERNAL, errors.InternalServiceError),
    ],
)
def test_errors_are_typed_and_carry_the_reason(client, script, code, kind):
    script.fail = (code, "SOME_REASON", "change something")
    with pytest.raises(kind) as caught:
        client.generate("hi")
    assert caught.value.reason == "SOME_REASON"
    assert caught.value.message == "change something"
    assert caught.value.metadata == {"field": "max_tokens"}
    assert caught.value.retry_after_s == 2.5


def test_unavailable_is_retried_with_the_same_id(client, script):
    script.fail, script.fail_times = (grpc.StatusCode.UNAVAILABLE, "NO_WORKER", "later"), 2
    assert client.generate("hi").text == "Hello"
    assert len(script.requests) == 3
    assert len({request.request_id for request in script.requests}) == 1


def test_nothing_is_retried_after_the_first_token(client, script):
    script.fail, script.fail_after_chunks = (grpc.StatusCode.UNAVAILABLE, "GONE", "gone"), True
    with pytest.raises(errors.UnavailableError):
        client.generate("hi")
    assert len(script.requests) == 1


def test_leaving_the_block_cancels(client, script):
    script.hang = True
    with client.stream("hi") as stream:
        next(iter(stream))
    assert script.cancelled.wait(10)


def test_deadline(client, script):
    script.hang = True
    with pytest.raises(errors.DeadlineError, match="give it more"):
        client.generate("hi", timeout_s=0.2)


def test_unreachable_service_says_what_to_do():
    with (
        Client("127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(errors.UnavailableError, match="correct its address"),
    ):
        client.count_tokens("hi")


@pytest.mark.parametrize("prompt", ["a\ud800", [2**40]])
def test_what_cannot_be_encoded_is_refused_before_it_is_sent(client, script, prompt):
    with pytest.raises(errors.InvalidRequestError) as caught:
        client.generate(prompt)
    assert caught.value.reason == "REQUEST_NOT_ENCODABLE"
    assert not script.requests


def test_a_tenant_goes_with_every_request_as_metadata(client, script):
    client.generate("hi")
    assert script.tenants == []
    with serving(script) as address:
        with Client(address, tenant="acme") as other:
            other.generate("hi")
        assert script.tenants == ["acme"]
        with pytest.raises(errors.InvalidRequestError, match="ASCII"):
            Client(address, tenant="ünknown")


def test_mixed_prompt_is_a_type_error(client):
    with pytest.raises(TypeError, match="token ids"):
        client.generate([1, "a"])


def test_upload_sends_both_files_whole(client, script, peft_dir):
    published = client.adapters.create("team/a", peft_dir)
    assert published.created
    assert published.version.target_modules == ("q", "v")
    files = script.uploads["team/a"]
    assert files["adapter_model.safetensors"] == (peft_dir / "adapter_model.safetensors").read_bytes()
    assert files["adapter_config.json"] == b"{}"


def test_upload_of_pickle_is_refused_with_advice(client, script, peft_dir):
    (peft_dir / "adapter_model.safetensors").rename(peft_dir / "adapter_model.bin")
    with pytest.raises(errors.InvalidRequestError, match="safe_serialization"):
        client.adapters.create("team/a", peft_dir)
    assert not script.uploads


def test_listings_follow_every_page(client, peft_dir):
    for name in ("team/b", "team/a", "team/c"):
        client.adapters.create(name, peft_dir)
    assert [adapter.adapter_id for adapter in client.adapters.list()] == ["team/a", "team/b", "team/c"]
    assert [model.id for model in client.models()] == ["base", "team/a"]


def test_fleet_and_policy(client, script):
    fleet = client.fleet()
    assert fleet.workers[0].resident == {"sha256:aa": "pool", "sha256:bb": "host"}
    script.problems = ((3, "scorers[0].weight", "must be at most 1"),)
    assert client.check_policy("x").problems[0].line == 3


async def test_asynchronous_client_does_the_same(script, peft_dir):
    with serving(script) as address:
        async with AsyncClient(address, store_address=address) as client:
            assert (await client.generate("hi")).text == "Hello"
            assert (await client.adapters.create("team/a", peft_dir)).created
            assert [adapter.adapter_id async for adapter in client.adapters.list()] == ["team/a"]
            assert [model.id async for model in client.models()] == ["base", "team/a"]
            assert (await client.adapters.get("team/a")).latest.rank == 8
            assert (await client.fleet()).policy.name == "default"
            assert await client.count_tokens("four") == 4
            assert await client.check_policy("x") == PolicyCheck()
            assert await client.adapters.delete("team/a") == 1
            script.fail = (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", "no such adapter")
            with pytest.raises(MultitudeError) as caught:
                await client.generate("hi", adapter="team/zz")
            assert caught.value.reason == "ADAPTER_NOT_FOUND"


async def test_asynchronous_cancel(script):
    script.hang = True
    with serving(script) as address:
        async with AsyncClient(address) as client:
            async with client.stream("hi") as stream:
                async for chunk in stream:
                    assert chunk.text == "Hel"
                    break
            assert await asyncio.to_thread(script.cancelled.wait, 10)


async def test_a_cancelled_stream_does_not_look_like_a_cancelled_task(script):
    script.hang = True
    with serving(script) as address:
        async with AsyncClient(address) as client:
            stream = client.stream("hi")
            await anext(aiter(stream))
            stream.cancel()
            with pytest.raises(errors.CancelledByCallerError):
                await stream.result()


def test_a_message_that_is_too_large_is_the_callers_fault(client):
    with pytest.raises(errors.InvalidRequestError) as caught:
        client.generate("x" * (17 << 20))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_bytes_are_no_token_ids(client):
    with pytest.raises(TypeError, match="decode"):
        client.generate(b"abc")
