"""Prompts to token ids, with every way in which a prompt can be wrong."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from control_plane.core.errors import QueueFull
from control_plane.errors import (
    ChatTemplateFailed,
    ChatTemplateMissing,
    PromptEmpty,
    PromptTooLong,
    TokenOutOfRange,
)
from control_plane.types import ChatPrompt, ModelFacts, Prompt, TextPrompt, TokenPrompt

RETRY_AFTER_S: Final = 1.0


class PromptEncoder:
    """Encodes prompts with one model's tokenizer; Generate and CountTokens share it."""

    def __init__(
        self,
        tokenizer: Any,
        facts: ModelFacts,
        *,
        max_prompt_characters: int,
        inline_characters: int,
        max_waiting: int,
    ) -> None:
        """Takes over `tokenizer`, a fast transformers tokenizer.

        Texts of up to `inline_characters` are encoded at once, longer ones on a thread of their own, for which at most
        `max_waiting` wait, and texts of more than `max_prompt_characters` not at all.
        """
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        # What tokenizer.json says about cutting and filling is meant for training; a prompt is encoded as it is.
        # Set once here, the backend is only read afterwards, which is safe from several threads.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._facts = facts
        self._max_prompt_characters = max_prompt_characters
        self._inline_characters = inline_characters
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids: at least one, all in the vocabulary, fewer than the context has room for.

        Raises PromptEmpty, PromptTooLong, TokenOutOfRange, ChatTemplateMissing, ChatTemplateFailed, QueueFull.
        """
        num_characters = _num_characters(prompt)
        if num_characters > self._max_prompt_characters:
            raise PromptTooLong(
                "prompt",
                f"has {num_characters} characters; at most {self._max_prompt_characters} are taken",
                character_count=str(num_characters),
                max_character_count=str(self._max_prompt_characters),
            )
        if num_characters > self._inline_characters:
            token_ids = await self._on_thread(prompt)
        else:
            token_ids = self._token_ids(prompt)
        self._check(token_ids)
        return token_ids

    def close(self) -> None:
        """Ends the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, prompt: Prompt) -> tuple[int, ...]:
        if self._num_waiting >= self._max_waiting:
            raise QueueFull(
                f"prompt: {self._num_waiting} long prompts wait to be tokenised already",
                metadata={"field": "prompt"},
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._token_ids, prompt)
        finally:
            self._num_waiting -= 1

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        match prompt:
            case TextPrompt(""):
                # A tokenizer that adds special tokens would make a prompt of nothing but these.
                raise PromptEmpty("prompt.text", "must not be empty; send at least one character")
            case TextPrompt(text):
                return self._encode_text(text, add_special_tokens=True)
            case TokenPrompt(token_ids):
                self._check_vocabulary(token_ids)
                return token_ids
            case ChatPrompt():
                # The template writes the special tokens itself.
                return self._encode_text(self._render(prompt), add_special_tokens=False)

    def _encode_text(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def _render(self, chat: ChatPrompt) -> str:
        """The conversation as text, with the template's generation prompt."""
        if not chat.messages:
            raise PromptEmpty("prompt.chat.messages", "must hold at least one message")
        if not self._tokenizer.chat_template:
            raise ChatTemplateMissing("prompt.chat", "the model has no chat template; send text or token_ids instead")
        conversation = [{"role": message.role, "content": message.content} for message in chat.messages]
        try:
            rendered = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # A template is a program of the model's: it can raise anything.
            raise ChatTemplateFailed("prompt.chat", f"the model's chat template refuses it: {error}") from error
        return str(rendered)

    def _check(self, token_ids: tuple[int, ...]) -> None:
        if not token_ids:
            raise PromptEmpty("prompt", "must have at least one token")
        longest = self._facts.context_length - 1
        if len(token_ids) > longest:
            raise PromptTooLong(
                "prompt",
                f"has {len(token_ids)} tokens; the context of {self._facts.context_length} tokens takes a prompt of at"
                f" most {longest}",
                prompt_token_count=str(len(token_ids)),
                max_prompt_token_count=str(longest),
                context_length=str(self._facts.context_length),
            )

    def _check_vocabulary(self, token_ids: tuple[int, ...]) -> None:
        vocab_size = self._facts.vocab_size
        if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
            return
        index = next(index for index, token_id in enumerate(token_ids) if not 0 <= token_id < vocab_size)
        raise TokenOutOfRange(
            f"prompt.token_ids.ids[{index}]",
            f"is {token_ids[index]}; the vocabulary is [0, {vocab_size})",
            vocab_size=str(vocab_size),
        )


def _num_characters(prompt: Prompt) -> int:
    match prompt:
        case TextPrompt(text):
            return len(text)
        case ChatPrompt(messages):
            return sum(len(message.role) + len(message.content) for message in messages)
        case TokenPrompt():
            return 0
