"""What applications, adapter owners and operators see of the whole stack."""

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest

from multitude import AsyncClient, FinishReason, Message, MultitudeError, SamplingParams, StopConditions
from multitude.errors import InvalidRequestError, NotFoundError
from tests.e2e.conftest import DEMO_MODEL
from tests.e2e.demo_prompts import demo_prompts, one_for_each_adapter

GREEDY = SamplingParams(temperature=0)


def _until(condition, seconds=20.0):
    """Asks again until the condition holds: the services report their state every now and then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"


async def _ask_all(stack, prompts):
    async with AsyncClient(stack.address, store_address=stack.store_address) as client:
        calls = [
            client.generate(p.prompt, adapter=p.adapter, max_tokens=64, sampling=GREEDY, timeout_s=60) for p in prompts
        ]
        return await asyncio.gather(*calls)


async def test_every_adapter_answers_right_in_one_crowd(stack, client):
    prompts = demo_prompts()[::4]
    results = await _ask_all(stack, prompts)
    wrong = [(p, r.text) for p, r in zip(prompts, results, strict=True) if r.text.strip() != p.expected]
    assert not wrong


async def test_another_adapter_gives_another_answer(stack, client):
    first, second, *_ = [p for p in one_for_each_adapter() if p.adapter]
    own, other = await _ask_all(stack, [first, type(first)(second.adapter, first.prompt, "")])
    assert own.text.strip() == first.expected
    assert other.text.strip() != first.expected
    assert own.adapter_digest != other.adapter_digest


def test_seeded_sampling_repeats(client):
    sampling = SamplingParams(temperature=1.5, top_k=20, top_p=0.95, seed=11)
    texts = {client.generate("abc", sampling=sampling, max_tokens=12).token_ids for _ in range(3)}
    other = client.generate("abc", sampling=SamplingParams(temperature=1.5, seed=12), max_tokens=12)
    assert len(texts) == 1
    assert other.token_ids not in texts


def test_stop_logprobs_and_length(client):
    prompt = next(p for p in demo_prompts() if p.adapter and len(p.expected) >= 4)
    options = {"adapter": prompt.adapter, "sampling": GREEDY, "max_tokens": 64}
    cut = client.generate(prompt.prompt, stop=StopConditions(strings=(prompt.expected[2:4],)), **options)
    assert cut.finish_reason is FinishReason.STOP
    assert cut.text == client.generate(prompt.prompt, **options).text.partition(prompt.expected[2:4])[0]
    short = client.generate(prompt.prompt, logprob_count=3, **{**options, "max_tokens": 2})
    assert short.finish_reason is FinishReason.LENGTH
    assert len(short.token_ids) == len(short.logprobs) == short.usage.num_output_tokens == 2
    for position in short.logprobs:
        assert position.chosen == position.top[0]
        assert len(position.top) == 3


def test_prompt_forms_count_alike(client):
    text_count = client.count_tokens("abc")
    assert client.generate("abc", max_tokens=1).usage.num_prompt_tokens == text_count
    assert client.generate([5, 6, 7], max_tokens=1).usage.num_prompt_tokens == 3
    chat = [Message("user", "abc")]
    assert client.generate(chat, max_tokens=1).usage.num_prompt_tokens == client.count_tokens(chat)


def test_models_name_the_base_first(client):
    base, *adapters = client.models()
    assert base.is_base
    assert [model.id for model in adapters] == sorted(model.id for model in adapters)
    assert client.generate("abc", adapter=base.id, max_tokens=1).adapter_digest == ""


def test_cancelling_frees_the_pages(client):
    with client.stream("abc", max_tokens=200, stop=StopConditions(ignore_eos=True)) as stream:
        next(iter(stream))
    _until(lambda: sum(worker.kv_pages + worker.num_running for worker in client.fleet().workers) == 0)


BAD_REQUESTS = {
    "PROMPT_EMPTY": {"prompt": ""},
    "PROMPT_TOO_LONG": {"prompt": "a" * 5000},
    "TOKEN_OUT_OF_RANGE": {"prompt": [1_000_000]},
    "MAX_TOKENS_OUT_OF_RANGE": {"prompt": "a", "max_tokens": 0},
    "SAMPLING_OUT_OF_RANGE": {"prompt": "a", "sampling": SamplingParams(temperature=-1)},
    "STOP_INVALID": {"prompt": "a", "stop": StopConditions(strings=("",))},
    "LOGPROBS_OUT_OF_RANGE": {"prompt": "a", "logprob_count": 21},
    "REQUEST_ID_INVALID": {"prompt": "a", "request_id": "x" * 129},
    "REQUEST_NOT_ENCODABLE": {"prompt": "a\ud800"},
}


@pytest.mark.parametrize(("reason", "options"), BAD_REQUESTS.items(), ids=BAD_REQUESTS)
def test_bad_requests_say_what_to_change(client, reason, options):
    with pytest.raises(InvalidRequestError) as caught:
        client.generate(**options)
    assert caught.value.reason == reason
    assert caught.value.message


def test_max_tokens_beyond_the_context(client):
    with pytest.raises(InvalidRequestError) as caught:
        client.generate("a", max_tokens=1_000_000)
    assert caught.value.reason == "MAX_TOKENS_OUT_OF_RANGE"


def test_unknown_adapter(client):
    with pytest.raises(NotFoundError) as caught:
        client.generate("a", adapter="demo/nobody")
    assert caught.value.reason == "ADAPTER_NOT_FOUND"


def test_broken_adapter_is_refused_and_nothing_stays(client, tmp_path):
    source = next((DEMO_MODEL / "adapters").glob("*/adapter_config.json")).parent
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    file = broken / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InvalidRequestError) as caught:
        client.adapters.create("demo/broken", broken)
    assert caught.value.reason == "ADAPTER_FILE_CORRUPT"
    with pytest.raises(NotFoundError):
        client.adapters.get("demo/broken")


def test_wrong_base_model_is_refused(client, tmp_path):
    source = next((DEMO_MODEL / "adapters").glob("*/adapter_config.json")).parent
    other = tmp_path / "other"
    shutil.copytree(source, other)
    config = json.loads((other / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/else"
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(MultitudeError) as caught:
        client.adapters.create("demo/other", other)
    assert caught.value.reason == "BASE_MODEL_MISMATCH"


def test_new_version_and_deletion(client):
    first, second, *_ = sorted((DEMO_MODEL / "adapters").iterdir())
    one = client.adapters.create("demo/versions", first)
    two = client.adapters.create("demo/versions", second)
    assert [v.digest for v in client.adapters.get("demo/versions").versions] == [two.version.digest, one.version.digest]
    old = client.generate("abc", adapter=f"demo/versions@{one.version.digest}", max_tokens=1)
    assert old.adapter_digest == one.version.digest
    client.adapters.delete("demo/versions")
    with pytest.raises(NotFoundError):
        client.adapters.get("demo/versions")


def test_policy_check_names_the_line(client):
    good = (Path(__file__).parents[2] / "deploy" / "policies" / "default.yaml").read_text()
    assert client.check_policy(good).is_good
    (problem, *_) = client.check_policy(good + "\nscorerz: []\n").problems
    assert problem.line > 1
    assert "scorerz" in problem.path + problem.message


def test_killed_worker_is_not_noticed(stack, client):
    """Runs last: streams in flight go on elsewhere when a worker dies, whole and with the same tokens."""
    sampling = SamplingParams(temperature=1.0, seed=5)
    options = {"sampling": sampling, "max_tokens": 150, "stop": StopConditions(ignore_eos=True)}
    expected = client.generate("abc", **options)
    streams = [client.stream("abc", timeout_s=60, **options) for _ in range(12)]
    for stream in streams:
        next(iter(stream))
    stack.workers[0].kill()
    results = [stream.result() for stream in streams]
    assert {result.token_ids for result in results} == {expected.token_ids}
    assert {result.text for result in results} == {expected.text}
    stack.check()  # what a launcher does now and then: starts the worker again
    stack.workers[0].wait_ready(60)
    _until(lambda: sum(worker.is_attached for worker in client.fleet().workers) == 2)
