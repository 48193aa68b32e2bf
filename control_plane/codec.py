"""Client-facing protobuf to the shell's types and back; each field is checked for its own range here."""

import uuid
from collections.abc import Sequence
from typing import Final, Protocol

from control_plane.config import LimitsConfig
from control_plane.core.types import AdapterRef, Finished, FinishReason, PositionLogprobs, Request
from control_plane.errors import (
    LogprobsOutOfRange,
    MaxTokensOutOfRange,
    PriorityOutOfRange,
    PromptEmpty,
    ServiceLevelInvalid,
)
from control_plane.ranges import check_request_id, decode_sampling, decode_stop
from control_plane.types import (
    ChatMessage,
    ChatPrompt,
    GenerateCall,
    ModelFacts,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from multitude.v1 import generation_pb2, sampling_pb2

FINISH_REASONS: Final = {
    FinishReason.STOP: sampling_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sampling_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: sampling_pb2.FINISH_REASON_CANCELLED,
}


class Chunk(Protocol):
    """New tokens of one request, however many steps they took."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Their ids."""

    @property
    def text(self) -> str:
        """Their text."""

    @property
    def logprobs(self) -> Sequence[PositionLogprobs]:
        """One for each token, or none."""


def decode_generate(message: generation_pb2.GenerateRequest, limits: LimitsConfig, vocab_size: int) -> GenerateCall:
    """A call with every field in its range. Raises the InvalidRequest that names the first field at fault."""
    if not -limits.max_priority <= message.priority <= limits.max_priority:
        raise PriorityOutOfRange(
            "priority", f"is {message.priority}; it must be in [-{limits.max_priority}, {limits.max_priority}]"
        )
    if message.HasField("max_tokens") and message.max_tokens < 1:
        raise MaxTokensOutOfRange(
            "max_tokens", f"is {message.max_tokens}; it must be at least 1, or left out for the default"
        )
    if message.HasField("logprob_count") and not 0 <= message.logprob_count <= limits.max_logprobs:
        raise LogprobsOutOfRange(
            "logprob_count", f"is {message.logprob_count}; it must be in [0, {limits.max_logprobs}]"
        )
    deadline_ms = message.service_level.first_token_deadline_ms
    if not 0 <= deadline_ms <= limits.max_first_token_deadline_ms:
        raise ServiceLevelInvalid(
            "service_level.first_token_deadline_ms",
            f"is {deadline_ms}; it must be in [0, {limits.max_first_token_deadline_ms}] ms",
        )
    return GenerateCall(
        request_id=check_request_id(message.request_id) or str(uuid.uuid4()),
        is_request_id_chosen=bool(message.request_id),
        adapter=message.adapter,
        prompt=decode_prompt(message.prompt),
        sampling=decode_sampling(message.sampling, vocab_size),
        stop=decode_stop(message.stop, vocab_size),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        logprob_count=message.logprob_count if message.HasField("logprob_count") else None,
        priority=message.priority,
        first_token_deadline_ms=deadline_ms,
    )


def decode_prompt(message: generation_pb2.Prompt) -> Prompt:
    """The prompt in whichever form it has. Raises PromptEmpty if it has none."""
    match message.WhichOneof("input"):
        case "text":
            return TextPrompt(message.text)
        case "token_ids":
            return TokenPrompt(tuple(message.token_ids.ids))
        case "chat":
            return ChatPrompt(tuple(ChatMessage(turn.role, turn.content) for turn in message.chat.messages))
        case _:
            raise PromptEmpty("prompt", "set one of text, token_ids and chat")


def encode_started(request: Request) -> generation_pb2.GenerateResponse:
    """The stream's first message."""
    return generation_pb2.GenerateResponse(
        started=generation_pb2.Started(
            request_id=request.request_id,
            adapter_digest=request.adapter.digest if request.adapter else "",
            prompt_token_count=len(request.prompt_token_ids),
            seed=request.sampling.seed,
        )
    )


def encode_chunk(chunk: Chunk) -> generation_pb2.GenerateResponse:
    """New tokens."""
    # Filled in place: for one token that is half the cost of messages made first and copied in.
    message = generation_pb2.GenerateResponse()
    new = message.chunk
    new.token_ids.extend(chunk.token_ids)
    new.text = chunk.text
    if chunk.logprobs:
        new.logprobs.extend(_encode_logprobs(position) for position in chunk.logprobs)
    # A chunk without tokens and text is a chunk all the same.
    new.SetInParent()
    return message


def encode_finished(finished: Finished) -> generation_pb2.GenerateResponse:
    """The stream's last message."""
    timings = finished.timings
    return generation_pb2.GenerateResponse(
        finished=generation_pb2.Finished(
            reason=FINISH_REASONS[finished.reason],
            usage=generation_pb2.Usage(
                prompt_token_count=finished.usage.num_prompt_tokens,
                output_token_count=finished.usage.num_output_tokens,
            ),
            timings=generation_pb2.Timings(
                dispatched_ms=(timings.dispatched_s or 0.0) * 1000,
                first_token_ms=(timings.first_token_s or 0.0) * 1000,
                finished_ms=timings.finished_s * 1000,
            ),
        )
    )


def encode_base_model(facts: ModelFacts) -> generation_pb2.Model:
    """The base model, as ListModels shows it."""
    return generation_pb2.Model(id=facts.name, is_base=True, base_model=facts.name, context_length=facts.context_length)


def encode_adapter_model(adapter: AdapterRef, facts: ModelFacts) -> generation_pb2.Model:
    """An adapter's newest version, as ListModels shows it."""
    return generation_pb2.Model(
        id=adapter.adapter_id,
        base_model=facts.name,
        context_length=facts.context_length,
        adapter_digest=adapter.digest,
        rank=adapter.rank,
    )


def _encode_logprobs(position: PositionLogprobs) -> sampling_pb2.PositionLogprobs:
    return sampling_pb2.PositionLogprobs(
        chosen=sampling_pb2.TokenLogprob(token_id=position.token_id, logprob=position.logprob),
        top=[sampling_pb2.TokenLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in position.top],
    )
