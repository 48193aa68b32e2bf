"""Stop strings, found in text that arrives in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopScan:
    """What can be said after a piece of text: `text` is certain, and the output ends after it if `matched`."""

    text: str
    matched: bool


class _Pattern:
    """One stop string and how much of it the text so far ends with (Knuth, Morris, Pratt)."""

    __slots__ = ("borders", "progress", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.progress = 0
        self.borders = [0] * len(text)  # borders[i]: longest proper prefix of text[:i + 1] that is also its suffix
        for i in range(1, len(text)):
            length = self.borders[i - 1]
            while length and text[i] != text[length]:
                length = self.borders[length - 1]
            self.borders[i] = length + (text[i] == text[length])

    def advance(self, char: str) -> int:
        """Takes one character and returns how many characters of the stop string the text now ends with."""
        progress = self.progress
        while progress and self.text[progress] != char:
            progress = self.borders[progress - 1]
        self.progress = progress + (self.text[progress] == char)
        return self.progress


class StopMatcher:
    """Passes text on, holding back what may be the beginning of a stop string.

    The first match to be complete ends the output; of several complete at the same character, the longest.
    How the text is cut into pieces makes no difference.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        assert all(strings)
        self._patterns = [_Pattern(string) for string in strings]
        self._held = ""

    def push(self, text: str) -> StopScan:
        """Takes the next text; nothing may follow a match."""
        patterns, longest = self._patterns, len(self._held)
        for position, char in enumerate(text):
            matched = longest = 0
            for pattern in patterns:
                progress = pattern.advance(char)
                longest = max(longest, progress)
                if progress == len(pattern.text):
                    matched = max(matched, progress)
            if matched:
                return StopScan((self._held + text[: position + 1])[:-matched], matched=True)
        text = self._held + text
        self._held = text[len(text) - longest :]
        return StopScan(text[: len(text) - longest], matched=False)

    def flush(self) -> str:
        """Returns what was held back: the output ended without a match."""
        held, self._held = self._held, ""
        return held
