import asyncio
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from control_plane.core.errors import RequestError
from control_plane.errors import PromptEmpty
from control_plane.text.encoder import PromptEncoder
from control_plane.text.model_directory import ModelDirectoryError, load_tokenizer, read_facts
from control_plane.types import ChatMessage, ChatPrompt, TextPrompt, TokenPrompt
from tests.unit.control_shell.tiny_model import write_model


def make_encoder(path: Path, *, inline_characters: int = 1000) -> PromptEncoder:
    return PromptEncoder(
        load_tokenizer(path),
        read_facts(path, "tiny", 0),
        max_prompt_characters=10_000,
        inline_characters=inline_characters,
        max_waiting=50,
    )


@pytest.fixture(scope="module")
def encoder(model_path: Path) -> PromptEncoder:
    return make_encoder(model_path)


@pytest.mark.parametrize(
    "text", ["hello", "na\u00efve \u4e2d\u6587 \U0001f600", "a<|begin|>b", " two  spaces ", "x" * 60]
)
async def test_text_is_encoded_as_transformers_does(encoder: PromptEncoder, model_path: Path, text: str) -> None:
    expected = AutoTokenizer.from_pretrained(model_path)(text)["input_ids"]
    assert list(await encoder.encode(TextPrompt(text))) == expected


async def test_an_empty_text_is_refused_though_special_tokens_would_be_added(encoder: PromptEncoder) -> None:
    with pytest.raises(PromptEmpty, match=r"prompt\.text"):
        await encoder.encode(TextPrompt(""))


async def test_a_chat_is_encoded_as_transformers_does(encoder: PromptEncoder, model_path: Path) -> None:
    messages = (ChatMessage("system", "be brief"), ChatMessage("user", "h\u00e9!"))
    expected = AutoTokenizer.from_pretrained(model_path).apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(await encoder.encode(ChatPrompt(messages))) == expected


async def test_long_text_goes_through_a_thread_and_gives_the_same(model_path: Path) -> None:
    inline, threaded = make_encoder(model_path), make_encoder(model_path, inline_characters=1)
    texts = [TextPrompt(f"text {index}") for index in range(50)]
    assert await asyncio.gather(*map(threaded.encode, texts)) == [await inline.encode(text) for text in texts]
    threaded.close()


async def test_texts_that_wait_for_the_thread_are_bounded(model_path: Path) -> None:
    encoder = make_encoder(model_path, inline_characters=1)
    texts = [TextPrompt(f"text {index}") for index in range(51)]
    answers = await asyncio.gather(*map(encoder.encode, texts), return_exceptions=True)
    assert [isinstance(answer, tuple) for answer in answers] == [True] * 50 + [False]
    assert isinstance(answers[50], RequestError)
    assert answers[50].reason == "QUEUE_FULL"
    assert await encoder.encode(texts[50])
    encoder.close()


@pytest.mark.parametrize(
    ("prompt", "reason", "field"),
    [
        (TokenPrompt(()), "PROMPT_EMPTY", "prompt"),
        (ChatPrompt(()), "PROMPT_EMPTY", "prompt.chat.messages"),
        (TokenPrompt((1, 2, 257)), "TOKEN_OUT_OF_RANGE", "prompt.token_ids.ids[2]"),
        (TokenPrompt((-1,)), "TOKEN_OUT_OF_RANGE", "prompt.token_ids.ids[0]"),
        (TokenPrompt((1,) * 128), "PROMPT_TOO_LONG", "prompt"),
        (TextPrompt("x" * 127), "PROMPT_TOO_LONG", "prompt"),
        (TextPrompt("x" * 10_001), "PROMPT_TOO_LONG", "prompt"),
        (ChatPrompt((ChatMessage("stranger", "hi"),)), "CHAT_TEMPLATE_FAILED", "prompt.chat"),
    ],
)
async def test_a_wrong_prompt_is_refused(
    encoder: PromptEncoder, prompt: TextPrompt | TokenPrompt | ChatPrompt, reason: str, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        await encoder.encode(prompt)
    assert (caught.value.reason, caught.value.metadata["field"]) == (reason, field)


async def test_a_prompt_too_long_says_by_how_much(encoder: PromptEncoder) -> None:
    with pytest.raises(RequestError) as caught:
        await encoder.encode(TokenPrompt((1,) * 200))
    assert caught.value.metadata == {
        "field": "prompt",
        "prompt_token_count": "200",
        "max_prompt_token_count": "127",
        "context_length": "128",
    }


async def test_the_longest_prompt_is_taken(encoder: PromptEncoder) -> None:
    assert len(await encoder.encode(TokenPrompt((1,) * 127))) == 127


async def test_a_model_without_template_takes_no_chat(tmp_path: Path) -> None:
    encoder = make_encoder(write_model(tmp_path, template=None))
    with pytest.raises(RequestError) as caught:
        await encoder.encode(ChatPrompt((ChatMessage("user", "hi"),)))
    assert caught.value.reason == "CHAT_TEMPLATE_MISSING"


def test_a_directory_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match=r"config\.json does not exist"):
        read_facts(tmp_path, "tiny", 0)
    with pytest.raises(ModelDirectoryError, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold a JSON object"),
        ('{"vocab_size": 0, "max_position_embeddings": 4}', "vocab_size must be a positive integer"),
        ('{"vocab_size": 9, "max_position_embeddings": null}', "max_position_embeddings must be a positive integer"),
    ],
)
def test_a_broken_model_config_is_named(tmp_path: Path, config: str, problem: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelDirectoryError, match=problem):
        read_facts(tmp_path, "tiny", 0)


def test_the_context_can_be_cut_and_not_stretched(model_path: Path) -> None:
    assert read_facts(model_path, "tiny", 64).context_length == 64
    with pytest.raises(ModelDirectoryError, match="lower it"):
        read_facts(model_path, "tiny", 129)
