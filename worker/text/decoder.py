"""From token ids to text while they arrive: never half a character, never one lost.

The texts of all calls, joined, are what the tokenizer makes of all the ids at once, special tokens left out.
"""

from codecs import utf_8_decode
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer


class IncrementalDecoder(Protocol):
    """The text of one request's output, token by token."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns the text that became certain."""
        ...

    def flush(self) -> str:
        """Returns the text of what is still held; nothing follows."""
        ...


class ByteDecoder:
    """For byte-level tokenizers: every token is some bytes, and UTF-8 says where characters end.

    Bytes that are no UTF-8 become U+FFFD as soon as that is certain.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._held = b""  # the beginning of a character: at most three bytes

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns the characters that they complete."""
        pieces = self._pieces
        if len(token_ids) == 1 and token_ids[0] < len(pieces):
            data = self._held + pieces[token_ids[0]]
        else:
            data = self._held + b"".join(pieces[token_id] for token_id in token_ids if token_id < len(pieces))
        text, used = utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def flush(self) -> str:
        """Returns U+FFFD if a character was left open."""
        text, _ = utf_8_decode(self._held, "replace", True)
        self._held = b""
        return text


class WindowDecoder:
    """For tokenizers whose text depends on the neighbour token, such as sentencepiece's leading spaces.

    Decodes the tokens that became text last together with the new ones, and returns what the new ones add. A run of
    raw bytes is held until it ends, for a broken byte makes the tokenizer give up the whole run.
    """

    def __init__(
        self, tokenizer: Tokenizer, text_ids: frozenset[int], byte_ids: frozenset[int], context: tuple[int, ...]
    ) -> None:
        self._tokenizer = tokenizer
        self._text_ids = text_ids
        self._byte_ids = byte_ids
        self._window = list(context)  # text already returned, or before the output
        self._held: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns their text, except for an open run of raw bytes."""
        self._held.extend(token_id for token_id in token_ids if token_id in self._text_ids)
        end = len(self._held)
        while end and self._held[end - 1] in self._byte_ids:
            end -= 1
        return self._take(end)

    def flush(self) -> str:
        """Returns the text of an open run of raw bytes."""
        return self._take(len(self._held))

    def _take(self, end: int) -> str:
        if not end:
            return ""
        taken, self._held = self._held[:end], self._held[end:]
        before = self._tokenizer.decode(self._window, skip_special_tokens=True)
        after = self._tokenizer.decode(self._window + taken, skip_special_tokens=True)
        self._window = taken
        return after[len(before) :]
