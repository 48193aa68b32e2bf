"""The ranges of a request's fields, as protos/multitude/v1/sampling.proto and generation.proto state them."""

import math
import secrets
from typing import Final

from google.protobuf.message import Message

from control_plane.core.types import SamplingParams, StopConditions
from control_plane.errors import RequestIdInvalid, SamplingOutOfRange, StopInvalid
from multitude.v1 import sampling_pb2

MAX_REQUEST_ID_CHARACTERS: Final = 128
MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARACTERS: Final = 256
MAX_STOP_TOKENS: Final = 64


def check_request_id(request_id: str) -> str:
    """The id, if it can be one; the empty one too. Raises RequestIdInvalid."""
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise RequestIdInvalid(
            "request_id", f"has {len(request_id)} characters; at most {MAX_REQUEST_ID_CHARACTERS} are taken"
        )
    if not request_id.isprintable():
        raise RequestIdInvalid("request_id", "holds characters that do not print; use letters, digits and -_.:/")
    return request_id


def decode_sampling(message: sampling_pb2.SamplingParams, vocab_size: int) -> SamplingParams:
    """Sampling parameters with their defaults, a seed drawn if there is none. Raises SamplingOutOfRange."""
    defaults = SamplingParams()
    return SamplingParams(
        temperature=_number(message, "temperature", defaults.temperature, 0.0, 2.0),
        top_k=int(_number(message, "top_k", defaults.top_k, 0, vocab_size)),
        top_p=_number(message, "top_p", defaults.top_p, 0.0, 1.0, is_low_allowed=False),
        min_p=_number(message, "min_p", defaults.min_p, 0.0, 1.0),
        repetition_penalty=_number(
            message, "repetition_penalty", defaults.repetition_penalty, 0.0, 2.0, is_low_allowed=False
        ),
        presence_penalty=_number(message, "presence_penalty", defaults.presence_penalty, -2.0, 2.0),
        frequency_penalty=_number(message, "frequency_penalty", defaults.frequency_penalty, -2.0, 2.0),
        seed=message.seed if message.HasField("seed") else secrets.randbits(63),
    )


def decode_stop(message: sampling_pb2.StopConditions, vocab_size: int) -> StopConditions:
    """Stop conditions. Raises StopInvalid."""
    if len(message.strings) > MAX_STOP_STRINGS:
        raise StopInvalid("stop.strings", f"holds {len(message.strings)} strings; at most {MAX_STOP_STRINGS} are taken")
    for index, string in enumerate(message.strings):
        if not 1 <= len(string) <= MAX_STOP_CHARACTERS:
            raise StopInvalid(
                f"stop.strings[{index}]",
                f"has {len(string)} characters; it must have 1 to {MAX_STOP_CHARACTERS}",
            )
    if len(message.token_ids) > MAX_STOP_TOKENS:
        raise StopInvalid("stop.token_ids", f"holds {len(message.token_ids)} ids; at most {MAX_STOP_TOKENS} are taken")
    for index, token_id in enumerate(message.token_ids):
        if not 0 <= token_id < vocab_size:
            raise StopInvalid(f"stop.token_ids[{index}]", f"is {token_id}; the vocabulary is [0, {vocab_size})")
    return StopConditions(
        strings=tuple(message.strings), token_ids=tuple(message.token_ids), ignore_eos=message.ignore_eos
    )


def _number(
    message: Message, name: str, default: float, low: float, high: float, *, is_low_allowed: bool = True
) -> float:
    """One optional number of a message, checked to be finite and in its range."""
    if not message.HasField(name):
        return default
    value: float = getattr(message, name)
    if math.isfinite(value) and low <= value <= high and (is_low_allowed or value > low):
        return value
    bracket = "[" if is_low_allowed else "("
    raise SamplingOutOfRange(f"sampling.{name}", f"is {value:g}; it must be in {bracket}{low:g}, {high:g}]")
