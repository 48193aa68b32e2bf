"""The demo tokenizer takes any text, and transformers and tokenizers agree on it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from examples.demo_model.prompts import PROMPTS_FILE
from examples.demo_model.tokenizer import (
    ASSISTANT_ID,
    BEGIN_ID,
    END_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    USER_ID,
    VOCAB_SIZE,
    build_tokenizer,
)

BASE = PROMPTS_FILE.parent / "base"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert all(len(SPECIAL_TOKENS) <= token < VOCAB_SIZE for token in ids)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokenizers_agrees_with_transformers(tokenizer, text):
    assert build_tokenizer().encode(text).ids == tokenizer(text).input_ids


def test_committed_file_is_what_the_recipe_builds():
    committed = json.loads(Tokenizer.from_file(str(BASE / "tokenizer.json")).to_str())
    assert committed == json.loads(build_tokenizer().to_str())


def test_encoding_begins_once(tokenizer):
    assert tokenizer("ab").input_ids.count(BEGIN_ID) == 1
    assert tokenizer("ab").input_ids[0] == BEGIN_ID


def test_special_tokens_have_their_ids(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BEGIN_ID, END_ID, PAD_ID)
    assert len(tokenizer) == VOCAB_SIZE


def test_a_chat_is_turns_that_end(tokenizer):
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    a, b, c = tokenizer("abc", add_special_tokens=False).input_ids
    turns = [USER_ID, a, END_ID, ASSISTANT_ID, b, END_ID, USER_ID, c, END_ID, ASSISTANT_ID]
    assert ids == [BEGIN_ID, *turns]
