"""What a dispatched request has to be. The control plane checked it all; a worker trusts nobody's arithmetic."""

import re
from collections.abc import Sequence

from worker.engine_process.messages import EngineFacts
from worker.errors import (
    MaxTokensOutOfRangeError,
    PromptEmptyError,
    PromptTooLongError,
    RequestInvalidError,
    SamplingOutOfRangeError,
    StopConditionsInvalidError,
    TokenOutOfVocabularyError,
)
from worker.types import AdapterRef, Request, SamplingParams

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether it names an adapter version."""
    return _DIGEST.fullmatch(text) is not None


def check_request(request: Request, facts: EngineFacts) -> None:
    """Refuses a request that the engine could not run.

    Raises:
        RequestInvalidError: One of its kinds; the message says what to change.
    """
    if not request.request_id:
        raise RequestInvalidError("request_id is empty: give every request one", field="request_id")
    if not request.prompt_token_ids:
        raise PromptEmptyError("the prompt has no token: send at least one", field="prompt_token_ids")
    _check_tokens("prompt_token_ids", request.prompt_token_ids, facts.vocab_size)
    _check_tokens("resumed_token_ids", request.resumed_token_ids, facts.vocab_size)
    if request.max_tokens <= len(request.resumed_token_ids):
        raise MaxTokensOutOfRangeError(
            f"max_tokens is {request.max_tokens} and {len(request.resumed_token_ids)} tokens were already produced: "
            "ask for at least one more",
            field="max_tokens",
        )
    num_known = len(request.prompt_token_ids) + len(request.resumed_token_ids)
    if num_known >= facts.context_length:
        raise PromptTooLongError(
            f"prompt and resumed output have {num_known} tokens, which leaves no room for output in a context of "
            f"{facts.context_length}: shorten the prompt",
            field="prompt_token_ids",
        )
    if request.logprob_count is not None and not 0 <= request.logprob_count <= MAX_LOGPROBS:
        raise RequestInvalidError(f"logprob_count must be in [0, {MAX_LOGPROBS}]", field="logprob_count")
    check_sampling(request.sampling, facts.vocab_size)
    _check_stop(request, facts.vocab_size)
    if request.adapter is not None:
        check_adapter(request.adapter)


def check_adapter(adapter: AdapterRef) -> None:
    """Refuses an adapter without an id, or with something else than a digest. Raises RequestInvalidError."""
    if not adapter.adapter_id:
        raise RequestInvalidError("the adapter has no id: leave it unset for the base model", field="adapter")
    if not is_digest(adapter.digest):
        raise RequestInvalidError(
            f"the adapter's digest is {adapter.digest[:80]!r}: it must be sha256:<64 hex digits>",
            field="adapter.digest",
        )


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Refuses a field outside its range in sampling.proto, NaN included. Raises SamplingOutOfRangeError."""
    in_range = {
        "temperature in [0, 2]": 0 <= sampling.temperature <= 2,
        f"top_k in [0, {vocab_size}]": 0 <= sampling.top_k <= vocab_size,
        "top_p in (0, 1]": 0 < sampling.top_p <= 1,
        "min_p in [0, 1]": 0 <= sampling.min_p <= 1,
        "repetition_penalty in (0, 2]": 0 < sampling.repetition_penalty <= 2,
        "presence_penalty in [-2, 2]": -2 <= sampling.presence_penalty <= 2,
        "frequency_penalty in [-2, 2]": -2 <= sampling.frequency_penalty <= 2,
    }
    for rule, holds in in_range.items():
        if not holds:
            name = rule.partition(" ")[0]
            raise SamplingOutOfRangeError(
                f"{name} is {getattr(sampling, name)}: it must be {rule.partition(' ')[2]}", field=f"sampling.{name}"
            )


def _check_tokens(field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        bad = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
        raise TokenOutOfVocabularyError(
            f"{field} has token {bad}: the model's tokens are [0, {vocab_size})", field=field
        )


def _check_stop(request: Request, vocab_size: int) -> None:
    if len(request.stop_strings) > MAX_STOP_STRINGS or len(request.stop_token_ids) > MAX_STOP_TOKENS:
        raise StopConditionsInvalidError(
            f"a request has at most {MAX_STOP_STRINGS} stop strings and {MAX_STOP_TOKENS} stop tokens", field="stop"
        )
    for string in request.stop_strings:
        if not 1 <= len(string) <= MAX_STOP_CHARACTERS:
            raise StopConditionsInvalidError(
                f"a stop string has {len(string)} characters: it must have 1 to {MAX_STOP_CHARACTERS}",
                field="stop.strings",
            )
    for token_id in request.stop_token_ids:
        if not 0 <= token_id < vocab_size:
            raise StopConditionsInvalidError(
                f"stop token {token_id} is not one of the model's, which are [0, {vocab_size})", field="stop.token_ids"
            )
