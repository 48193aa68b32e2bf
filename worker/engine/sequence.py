"""A request on its way through the engine."""

from array import array
from enum import Enum

from worker.types import EngineRequest, HostedAdapter, SamplingParams


class SequenceState(Enum):
    """The life of a sequence; a preempted one goes back from RUNNING to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """A request's tokens and the pages that hold their KV. The scheduler alone changes `state` and `pages`.

    Token and page ids are machine arrays, so that a step joins those of many sequences without touching single ids.
    Tokens are added by `await_token` and `append` alone.

    Attributes:
        arrival: Place in the order of arrival; breaks every tie.
        group: What sequences are grouped by in a batch: the adapter's digest, "" for the base model.
        token_ids: Prompt, resumed output, then own output.
        num_tokens: Tokens so far, the pending one included.
        num_prompt: Tokens of the prompt.
        max_length: Tokens at which the sequence ends, prompt included.
        pending_row: While the sequence's newest token is on the device alone: its row among the tokens of the step in
            flight. It counts as a token, whatever it is.
        num_computed: Leading tokens whose KV is in `pages`, or will be once the step in flight has run.
        pages: Page ids, one for each block of tokens.
        was_preempted: Whether it ran before and lost its pages.
        num_passed: How often a sequence behind it was admitted before it.
    """

    __slots__ = (
        "arrival",
        "group",
        "max_length",
        "num_computed",
        "num_passed",
        "num_prompt",
        "num_tokens",
        "pages",
        "pending_row",
        "request",
        "state",
        "token_ids",
        "was_preempted",
    )

    def __init__(self, request: EngineRequest, arrival: int, context_length: int) -> None:
        self.request = request
        self.arrival = arrival
        self.group = "" if request.adapter is None else request.adapter.digest
        self.token_ids = array("q", request.prompt_token_ids + request.resumed_token_ids)
        self.num_tokens = len(self.token_ids)
        self.num_prompt = len(request.prompt_token_ids)
        self.max_length = min(self.num_prompt + request.max_tokens, context_length)
        self.pending_row: int | None = None
        self.num_computed = 0
        self.pages = array("i")
        self.state = SequenceState.WAITING
        self.was_preempted = False
        self.num_passed = 0

    def await_token(self, row: int) -> None:
        """Its next token is in this row of the step in flight."""
        assert self.pending_row is None, "one token at a time"
        self.pending_row = row
        self.num_tokens += 1

    def append(self, token_id: int) -> None:
        """Its next token, the pending one if there is one."""
        self.token_ids.append(token_id)
        self.num_tokens = len(self.token_ids)
        self.pending_row = None

    @property
    def adapter(self) -> HostedAdapter | None:
        """The adapter, or None for the base model."""
        return self.request.adapter

    @property
    def sampling(self) -> SamplingParams:
        """How its next token is chosen."""
        return self.request.sampling

    @property
    def running_order(self) -> tuple[int, int]:
        """Sorts running sequences; the last is the first to be preempted."""
        return -self.request.priority, self.arrival

    @property
    def waiting_order(self) -> tuple[int, bool, int]:
        """Sorts waiting sequences; within a priority, those that ran before go first."""
        return -self.request.priority, not self.was_preempted, self.arrival

    @property
    def num_output(self) -> int:
        """Output tokens so far, resumed ones included: the position of the next one."""
        return self.num_tokens - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose KV has yet to be computed; 1 in decode."""
        return self.num_tokens - self.num_computed

    @property
    def is_full(self) -> bool:
        """Whether it has all the tokens that it may have."""
        return self.num_tokens >= self.max_length

    @property
    def max_computed(self) -> int:
        """Tokens whose KV it holds at most: the last token is never fed back."""
        return self.max_length - 1
