"""What the engine tells of requests that it cannot serve."""

from worker.engine.config import EngineConfig
from worker.engine.errors import AdapterRankTooLarge, LogitsNotFinite
from worker.engine.sequence import Sequence
from worker.errors import MaxTokensOutOfRangeError, PromptEmptyError, PromptTooLongError
from worker.types import EngineRequest


def no_distribution(sequence: Sequence) -> LogitsNotFinite:
    """Why a sequence got no next token."""
    what = "the base model's" if sequence.adapter is None else f"adapter {sequence.group}'s"
    return LogitsNotFinite(
        f"after {sequence.num_output} tokens {what} logits are NaN or infinite: the weights are too large for the type "
        f"that this worker computes in, as those of an adapter with a huge lora_alpha are"
    )


def check_request(request: EngineRequest, config: EngineConfig) -> None:
    """Refuse what the engine could not run whatever its state.

    Raises:
        PromptEmptyError, MaxTokensOutOfRangeError, PromptTooLongError, AdapterRankTooLarge: see each.
    """
    context_length = config.context_length
    num_known = len(request.prompt_token_ids) + len(request.resumed_token_ids)
    if not request.prompt_token_ids:
        raise PromptEmptyError("the prompt has no token: send at least one", field="prompt_token_ids")
    if request.max_tokens <= len(request.resumed_token_ids):
        raise MaxTokensOutOfRangeError(
            f"max_tokens is {request.max_tokens} and {len(request.resumed_token_ids)} tokens were already produced: "
            "ask for at least one more",
            field="max_tokens",
        )
    if num_known >= context_length:
        raise PromptTooLongError(
            f"prompt and resumed output have {num_known} tokens, which leaves no room for output in a context of "
            f"{context_length}: shorten the prompt",
            field="prompt_token_ids",
        )
    if request.adapter is not None and 0 < config.max_rank < request.adapter.layout.max_rank:
        raise AdapterRankTooLarge(
            f"the adapter has rank {request.adapter.layout.max_rank} and this worker takes up to {config.max_rank}: "
            "raise engine.max_rank, or use a worker with a larger one",
            field="adapter",
        )
