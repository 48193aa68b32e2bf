"""The streamed text is the tokenizer's text of the whole output, cut at the first stop string."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.unit.worker_text.tokenizers_for_tests import SAMPLE, byte_level, metaspace, sentencepiece_style
from worker.text.stream import TextStream
from worker.text.vocabulary import Vocabulary, build_vocabulary

TOKENIZERS = {"byte_level": byte_level(), "sentencepiece": sentencepiece_style(), "metaspace": metaspace()}
VOCABULARIES = {name: build_vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}
NAMES = sorted(TOKENIZERS)


def whole_text(tokenizer: Tokenizer, prompt: Sequence[int], output: Sequence[int]) -> str:
    return str(tokenizer.decode([*prompt, *output], skip_special_tokens=True))[
        len(str(tokenizer.decode(list(prompt), skip_special_tokens=True))) :
    ]


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the match that is complete first; the longest one of several."""
    for end in range(1, len(text) + 1):
        matches = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[: end - max(matches)], True
    return text, False


def grouped(data: st.DataObject, tokens: Sequence[int]) -> Iterator[list[int]]:
    rest = list(tokens)
    while rest:
        size = data.draw(st.integers(1, 4))
        yield rest[:size]
        rest = rest[size:]


def text_tokens(name: str) -> list[int]:
    vocabulary = VOCABULARIES[name]
    return sorted(vocabulary.text_ids - vocabulary.byte_ids)


def any_tokens(name: str, max_size: int = 40) -> st.SearchStrategy[list[int]]:
    size = TOKENIZERS[name].get_vocab_size() + 3  # models have more ids than their tokenizer
    return st.lists(st.integers(0, size - 1), max_size=max_size)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_joined_texts_are_the_tokenizers_text_of_all_tokens(name: str, data: st.DataObject) -> None:
    prompt = data.draw(st.sampled_from([[], [data.draw(st.sampled_from(text_tokens(name)))]]))
    output = data.draw(any_tokens(name))
    stream = TextStream(VOCABULARIES[name], prompt)
    texts = [stream.push(group).text for group in grouped(data, output)]
    texts.append(stream.finish().text)
    expected = whole_text(TOKENIZERS[name], [] if name == "byte_level" else prompt, output)
    assert "".join(texts) == expected


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_stop_strings_cut_the_text_and_name_the_token(name: str, data: st.DataObject) -> None:
    output = data.draw(any_tokens(name))
    whole = whole_text(TOKENIZERS[name], [], output)
    slices = st.builds(lambda i, n: whole[i : i + n], st.integers(0, max(len(whole) - 1, 0)), st.integers(1, 6))
    stops = data.draw(st.lists(st.one_of(slices, st.text(min_size=1, max_size=4)), max_size=4))
    stops = [stop for stop in stops if stop]
    expected, matched = cut(whole, stops)

    stream = TextStream(VOCABULARIES[name], [], stops)
    texts: list[str] = []
    used = 0
    for group in grouped(data, output):
        piece = stream.push(group)
        texts.append(piece.text)
        used += piece.num_tokens
        if piece.stopped:
            break
    if not stream.stopped:
        assert used == len(output)
        texts.append(stream.finish().text)
    assert ("".join(texts), stream.stopped) == (expected, matched)
    if matched and used < len(output):
        shorter = TextStream(VOCABULARIES[name], [], stops)
        assert not shorter.push(output[: used - 1]).stopped
        assert shorter.push(output[used - 1 : used]).stopped


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_resumed_output_repeats_nothing_and_loses_nothing(name: str, data: st.DataObject) -> None:
    output = data.draw(any_tokens(name))
    stops = data.draw(st.lists(st.text(alphabet="helost日 op", min_size=1, max_size=3), max_size=2))
    split = data.draw(st.integers(0, len(output)))
    first = TextStream(VOCABULARIES[name], [], stops)
    before = first.push(output[:split])
    if before.stopped:
        assert TextStream(VOCABULARIES[name], [], stops, output[:split]).stopped
        return
    second = TextStream(VOCABULARIES[name], [], stops, output[:split])
    assert first.push(output[split:]) == second.push(output[split:])
    assert first.stopped == second.stopped
    if not first.stopped:
        assert first.finish() == second.finish()


@given(st.text(alphabet=SAMPLE, min_size=1, max_size=30))
def test_half_a_character_is_never_shown(text: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    alphabet = {bytes([byte]): byte for byte in range(256)}
    stream = TextStream(VOCABULARIES["byte_level"], [])
    shown = ""
    for byte in text.encode():
        shown += stream.push([alphabet[bytes([byte])]]).text
        assert text.startswith(shown)
    assert shown == text
    assert stream.finish().text == ""
    assert tokenizer.decode(list(text.encode())) == text


def test_the_space_before_the_first_word_stays_if_text_came_before() -> None:
    tokenizer, vocabulary = TOKENIZERS["sentencepiece"], VOCABULARIES["sentencepiece"]
    hello, start = tokenizer.token_to_id("▁hello"), tokenizer.token_to_id("<s>")
    assert TextStream(vocabulary, [start, hello]).push([hello]).text == " hello"
    assert TextStream(vocabulary, [start]).push([hello]).text == "hello"


def test_a_model_with_both_kinds_of_pieces_shares_one_vocabulary() -> None:
    vocabulary: Vocabulary = VOCABULARIES["byte_level"]
    streams = [TextStream(vocabulary, []) for _ in range(2)]
    assert streams[0].push([0xE6]).text == ""
    assert streams[1].push([0x41]).text == "A"
    assert streams[0].push([0x97, 0xA5]).text == "日"
