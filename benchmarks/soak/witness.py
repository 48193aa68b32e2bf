"""What became of each request, and whether it may have."""

from dataclasses import dataclass, field

from benchmarks.soak.load import Asked
from worker.types import FinishReason, RequestFailure, SequenceOutput, StepResult


class Wrong(Exception):
    """The engine did what it must not; the message says what, and of which request."""


@dataclass
class Story:
    """One request's."""

    asked: Asked
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: RequestFailure | None = None
    was_cancelled: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it has an end."""
        return self.finish_reason is not None or self.failure is not None

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request, alone, gives the same tokens up to rounding."""
        return self.finish_reason is FinishReason.LENGTH and self.asked.request.sampling.is_greedy


class Witness:
    """Hears every step's result. Raises `Wrong` on what must not be."""

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}

    @property
    def num_open(self) -> int:
        """Requests without an end."""
        return sum(not story.has_ended for story in self._stories.values())

    def expect(self, asked: Asked) -> None:
        """A request is given to the engine."""
        self._stories[asked.request.request_id] = Story(asked)

    def cancel(self, name: str) -> None:
        """A request is cancelled."""
        self._stories[name].was_cancelled = True

    def hear(self, result: StepResult) -> list[str]:
        """A step's result; the requests that ended in it."""
        ended = []
        for output in result.outputs:
            story = self._open(output.request_id)
            _extend(story, output)
            if output.finish_reason is not None:
                ended.append(output.request_id)
        for failure in result.failures:
            story = self._open(failure.request_id)
            story.failure = failure
            if not story.asked.is_refused:
                raise Wrong(f"{failure.request_id} failed: {failure.reason}: {failure.message}")
            ended.append(failure.request_id)
        return ended

    def take_stories(self) -> list[Story]:
        """Of all requests, now that every one must have ended."""
        stories, self._stories = list(self._stories.values()), {}
        for story in stories:
            if not story.has_ended:
                raise Wrong(f"{story.asked.request.request_id} was lost: the engine is idle and it has no end")
        return stories

    def _open(self, name: str) -> Story:
        story = self._stories.get(name)
        if story is None or story.has_ended:
            raise Wrong(f"{name} is heard of after its end")
        return story


def _extend(story: Story, output: SequenceOutput) -> None:
    asked = story.asked
    name, most = asked.request.request_id, asked.request.max_tokens - len(asked.request.resumed_token_ids)
    story.token_ids += output.token_ids
    story.finish_reason = output.finish_reason
    if asked.is_refused:
        raise Wrong(f"{name} cannot be served, and is")
    if len(story.token_ids) > most:
        raise Wrong(f"{name} asked for {most} tokens and has {len(story.token_ids)}")
    match output.finish_reason:
        case FinishReason.LENGTH if len(story.token_ids) < most:
            raise Wrong(f"{name} ended with {len(story.token_ids)} of {most} tokens")
        case FinishReason.STOP if not asked.request.stop_token_ids:
            raise Wrong(f"{name} stopped and has no stop token")
        case FinishReason.CANCELLED if not story.was_cancelled:
            raise Wrong(f"{name} was cancelled by nobody")
