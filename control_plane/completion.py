"""A decoded call, its prompt's tokens and its adapter become the core's request, with its defaults filled in."""

from control_plane.config import LimitsConfig
from control_plane.core.types import AdapterRef, Request
from control_plane.errors import MaxTokensOutOfRange
from control_plane.types import GenerateCall, ModelFacts


def complete(
    call: GenerateCall,
    prompt_token_ids: tuple[int, ...],
    adapter: AdapterRef | None,
    facts: ModelFacts,
    limits: LimitsConfig,
    tenant: str,
) -> Request:
    """The request to serve. Raises MaxTokensOutOfRange if prompt and output do not fit in the context together."""
    room = facts.context_length - len(prompt_token_ids)
    if call.max_tokens is not None and call.max_tokens > room:
        raise MaxTokensOutOfRange(
            "max_tokens",
            f"is {call.max_tokens}; after a prompt of {len(prompt_token_ids)} tokens the context of"
            f" {facts.context_length} has room for {room}",
            max_tokens_limit=str(room),
            prompt_token_count=str(len(prompt_token_ids)),
            context_length=str(facts.context_length),
        )
    return Request(
        request_id=call.request_id,
        prompt_token_ids=prompt_token_ids,
        max_tokens=call.max_tokens if call.max_tokens is not None else min(limits.default_max_tokens, room),
        first_token_deadline_s=call.first_token_deadline_ms / 1000,
        adapter=adapter,
        sampling=call.sampling,
        stop=call.stop,
        logprob_count=call.logprob_count,
        priority=call.priority,
        tenant=tenant,
        base_model=facts.name,
    )
