"""One request's output text: detokenized as it arrives, cut at a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.text.stop import StopMatcher
from worker.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that became final.

    Attributes:
        text: The text.
        num_tokens: How many of the tokens given belong to the output: all of them, or those up to and including the
            one that completed a stop string.
        stopped: Whether a stop string was found; `text` ends before it.
    """

    text: str
    num_tokens: int
    stopped: bool = False


class TextStream:
    """The text of one output. The same tokens give the same text however they are grouped.

    `resumed_token_ids` is output whose text is already known to the caller: it is replayed and its text not repeated.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt_token_ids: Sequence[int],
        stop_strings: Sequence[str] = (),
        resumed_token_ids: Sequence[int] = (),
    ) -> None:
        self._decoder = vocabulary.decoder(prompt_token_ids)
        self._matcher = StopMatcher(stop_strings) if stop_strings else None
        self.stopped = bool(resumed_token_ids) and self.push(resumed_token_ids).stopped

    def push(self, token_ids: Sequence[int]) -> TextPiece:
        """Takes the next tokens of the output; none may follow once `stopped`."""
        matcher = self._matcher
        if matcher is None:
            return TextPiece(self._decoder.push(token_ids), len(token_ids))
        texts = []
        for index in range(len(token_ids)):
            scan = matcher.push(self._decoder.push(token_ids[index : index + 1]))
            texts.append(scan.text)
            if scan.matched:
                self.stopped = True
                return TextPiece("".join(texts), index + 1, stopped=True)
        return TextPiece("".join(texts), len(token_ids))

    def finish(self) -> TextPiece:
        """Returns the text still held, for the output has ended; its last characters may still be a stop string."""
        tail = self._decoder.flush()
        if self._matcher is None:
            return TextPiece(tail, 0)
        scan = self._matcher.push(tail)
        self.stopped = scan.matched
        return TextPiece(scan.text if scan.matched else scan.text + self._matcher.flush(), 0, scan.matched)
