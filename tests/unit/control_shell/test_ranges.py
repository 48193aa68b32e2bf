import math

import pytest

from control_plane.codec import decode_generate
from control_plane.completion import complete
from control_plane.config import LimitsConfig
from control_plane.core.errors import RequestError
from control_plane.core.types import SamplingParams
from control_plane.types import ModelFacts
from multitude.v1 import generation_pb2 as pb
from multitude.v1 import sampling_pb2

VOCAB_SIZE = 257
LIMITS = LimitsConfig(default_max_tokens=40)
FACTS = ModelFacts("tiny", VOCAB_SIZE, context_length=100)
PROMPT = pb.Prompt(text="hi")


def message(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": PROMPT} | fields)


def sampling(**fields: float) -> pb.GenerateRequest:
    return message(sampling=sampling_pb2.SamplingParams(**fields))


def stop(**fields: object) -> pb.GenerateRequest:
    return message(stop=sampling_pb2.StopConditions(**fields))


WRONG = [
    (pb.GenerateRequest(), "PROMPT_EMPTY", "prompt"),
    (pb.GenerateRequest(prompt=pb.Prompt()), "PROMPT_EMPTY", "prompt"),
    (message(request_id="x" * 129), "REQUEST_ID_INVALID", "request_id"),
    (message(request_id="a\nb"), "REQUEST_ID_INVALID", "request_id"),
    (message(max_tokens=0), "MAX_TOKENS_OUT_OF_RANGE", "max_tokens"),
    (message(max_tokens=-5), "MAX_TOKENS_OUT_OF_RANGE", "max_tokens"),
    (message(logprob_count=-1), "LOGPROBS_OUT_OF_RANGE", "logprob_count"),
    (message(logprob_count=21), "LOGPROBS_OUT_OF_RANGE", "logprob_count"),
    (message(priority=101), "PRIORITY_OUT_OF_RANGE", "priority"),
    (message(priority=-101), "PRIORITY_OUT_OF_RANGE", "priority"),
    (
        message(service_level=pb.ServiceLevel(first_token_deadline_ms=-1)),
        "SERVICE_LEVEL_INVALID",
        "service_level.first_token_deadline_ms",
    ),
    (
        message(service_level=pb.ServiceLevel(first_token_deadline_ms=10**15)),
        "SERVICE_LEVEL_INVALID",
        "service_level.first_token_deadline_ms",
    ),
    *(
        (sampling(**{name: value}), "SAMPLING_OUT_OF_RANGE", f"sampling.{name}")
        for name, values in {
            "temperature": (-0.01, 2.01, math.nan, math.inf),
            "top_k": (-1, VOCAB_SIZE + 1),
            "top_p": (0.0, -0.5, 1.01, math.nan),
            "min_p": (-0.01, 1.01, math.nan),
            "repetition_penalty": (0.0, -1.0, 2.01, math.nan),
            "presence_penalty": (-2.01, 2.01, math.nan),
            "frequency_penalty": (-2.01, 2.01, -math.inf),
        }.items()
        for value in values
    ),
    (stop(strings=["a"] * 17), "STOP_INVALID", "stop.strings"),
    (stop(strings=["a", ""]), "STOP_INVALID", "stop.strings[1]"),
    (stop(strings=["x" * 257]), "STOP_INVALID", "stop.strings[0]"),
    (stop(token_ids=[1] * 65), "STOP_INVALID", "stop.token_ids"),
    (stop(token_ids=[1, -1]), "STOP_INVALID", "stop.token_ids[1]"),
    (stop(token_ids=[VOCAB_SIZE]), "STOP_INVALID", "stop.token_ids[0]"),
]


@pytest.mark.parametrize(("wrong", "reason", "field"), WRONG)
def test_a_field_out_of_range_is_named(wrong: pb.GenerateRequest, reason: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_generate(wrong, LIMITS, VOCAB_SIZE)
    assert (caught.value.reason, caught.value.metadata["field"]) == (reason, field)
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "right",
    [
        sampling(temperature=0, top_k=VOCAB_SIZE, top_p=1, min_p=0, repetition_penalty=2, presence_penalty=-2),
        sampling(temperature=2, top_k=0, top_p=1e-6, min_p=1, repetition_penalty=1e-6, frequency_penalty=2),
        sampling(seed=-(2**63)),
        stop(strings=["x" * 256] * 16, token_ids=[0] * 64),
        message(request_id="x" * 128, max_tokens=1, logprob_count=0, priority=-100),
        message(logprob_count=20, priority=100),
    ],
)
def test_the_ends_of_the_ranges_are_taken(right: pb.GenerateRequest) -> None:
    decode_generate(right, LIMITS, VOCAB_SIZE)


def test_defaults_are_filled_in() -> None:
    call = decode_generate(message(), LIMITS, VOCAB_SIZE)
    assert call.sampling == SamplingParams(seed=call.sampling.seed)
    assert call.request_id
    assert not call.is_request_id_chosen
    other = decode_generate(message(), LIMITS, VOCAB_SIZE)
    assert (call.request_id, call.sampling.seed) != (other.request_id, other.sampling.seed)


def test_a_seed_of_zero_is_a_seed() -> None:
    assert decode_generate(sampling(seed=0), LIMITS, VOCAB_SIZE).sampling.seed == 0


@pytest.mark.parametrize(
    ("num_prompt_tokens", "asked", "given"), [(10, None, 40), (80, None, 20), (10, 90, 90), (99, 1, 1)]
)
def test_max_tokens_fit_in_the_context(num_prompt_tokens: int, asked: int | None, given: int) -> None:
    call = decode_generate(message(max_tokens=asked), LIMITS, VOCAB_SIZE)
    assert complete(call, (1,) * num_prompt_tokens, None, FACTS, LIMITS, "acme").max_tokens == given


def test_max_tokens_beyond_the_context_say_what_fits() -> None:
    call = decode_generate(message(max_tokens=91), LIMITS, VOCAB_SIZE)
    with pytest.raises(RequestError) as caught:
        complete(call, (1,) * 10, None, FACTS, LIMITS, "acme")
    assert caught.value.reason == "MAX_TOKENS_OUT_OF_RANGE"
    assert caught.value.metadata["max_tokens_limit"] == "90"
