"""A model's tokenizer, read for one purpose: turning output ids into text while they arrive."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.text.decoder import ByteDecoder, IncrementalDecoder, WindowDecoder
from worker.text.errors import TokenizerInvalidError, TokenizerUnsupportedError

FILE_NAME = "tokenizer.json"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for.

    Printable Latin-1 characters stand for themselves; the other bytes are moved, in order, to U+0100 and on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


@dataclass(frozen=True)
class Vocabulary:
    """What a detokenizer must know of the tokens; shared by all requests.

    Attributes:
        tokenizer: The model's tokenizer.
        text_ids: Tokens that are text: all but special ones. Models often have more ids than their tokenizer; those
            are no text either.
        byte_ids: Those of `text_ids` that are one raw byte each, of which only a whole run can be read.
        pieces: The bytes of each id if the tokenizer is byte-level, empty where it is no text; else None.
    """

    tokenizer: Tokenizer
    text_ids: frozenset[int]
    byte_ids: frozenset[int]
    pieces: tuple[bytes, ...] | None

    def decoder(self, prompt_token_ids: Sequence[int]) -> IncrementalDecoder:
        """Returns a decoder for the output that follows this prompt."""
        if self.pieces is not None:
            return ByteDecoder(self.pieces)
        return WindowDecoder(self.tokenizer, self.text_ids, self.byte_ids, self._context(prompt_token_ids))

    def _context(self, prompt_token_ids: Sequence[int]) -> tuple[int, ...]:
        """The prompt's last token of text, which decides whether the output's leading space is kept.

        Raw bytes are passed over: a character that the prompt left open is not completed by the output.
        """
        for token_id in reversed(prompt_token_ids):
            if token_id in self.text_ids and token_id not in self.byte_ids:
                return (token_id,)
        return ()


def load_vocabulary(model_path: Path) -> Vocabulary:
    """Reads `tokenizer.json` of a model directory.

    Raises:
        TokenizerInvalidError: The file is missing or no tokenizer.
        TokenizerUnsupportedError: Its decoder mixes byte-level pieces with other steps.
    """
    path = model_path / FILE_NAME
    if not path.is_file():
        raise TokenizerInvalidError(
            f"{path} is missing: save the model with its fast tokenizer (tokenizer.save_pretrained)", field="model.path"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise TokenizerInvalidError(f"{path} is not a tokenizer: {error}", field="model.path") from error
    return build_vocabulary(tokenizer)


def build_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Reads off a tokenizer what detokenizing needs; see `load_vocabulary` for the errors."""
    steps = list(_decoder_steps(json.loads(tokenizer.to_str())["decoder"]))
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    special = {token_id for token_id, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    text_ids = frozenset(tokens.keys() - special)
    if "ByteLevel" in steps:
        if set(steps) - {"ByteLevel", "Fuse"}:
            raise TokenizerUnsupportedError(
                f"tokenizer.json: decoder {' + '.join(steps)} is not supported; ByteLevel must stand alone",
                field="model.path",
            )
        alphabet = byte_alphabet()
        pieces = tuple(
            _piece(tokens[token_id], alphabet) if token_id in text_ids else b""
            for token_id in range(max(text_ids, default=-1) + 1)
        )
        return Vocabulary(tokenizer, text_ids, frozenset(), pieces)
    byte_ids: frozenset[int] = frozenset()
    if "ByteFallback" in steps:
        byte_ids = frozenset(token_id for token_id, token in tokens.items() if _BYTE_TOKEN.fullmatch(token))
    return Vocabulary(tokenizer, text_ids, byte_ids & text_ids, None)


def _decoder_steps(decoder: dict[str, Any] | None) -> Iterator[str]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _decoder_steps(step)
    else:
        yield decoder["type"]


def _piece(token: str, alphabet: dict[str, int]) -> bytes:
    """The bytes of a byte-level token; one with any other character is taken literally, as added tokens are."""
    values = [alphabet.get(char) for char in token]
    known = [value for value in values if value is not None]
    return bytes(known) if len(known) == len(values) else token.encode()
