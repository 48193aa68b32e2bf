"""Greedy answers of the demo model with transformers and PEFT: the reference that the services must match."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast


class Answerer:
    """The base and its adapters, in float32, answering many prompts at once."""

    def __init__(self, folder: Path, adapters: Sequence[str], device: str = "cpu") -> None:
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        first, *others = adapters
        model = PeftModel.from_pretrained(base, folder / "adapters" / first, adapter_name=_peft_name(first))
        for name in others:
            model.load_adapter(folder / "adapters" / name, adapter_name=_peft_name(name))
        self._model = model.to(device).eval()
        self._tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
        self._device = device

    def answers(self, prompts: Sequence[str], adapter: str | None, max_tokens: int = 32) -> list[str]:
        """What the adapter, or the base for None, says to plain prompts."""
        encoded = self._tokenizer(list(prompts), return_tensors="pt", padding=True).to(self._device)
        return self._generate(encoded["input_ids"], encoded["attention_mask"], adapter, max_tokens)

    def chat_answers(self, messages: Sequence[str], adapter: str | None, max_tokens: int = 32) -> list[str]:
        """What the adapter, or the base for None, says to one-turn chats."""
        chats = [[{"role": "user", "content": message}] for message in messages]
        encoded = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(self._device)
        return self._generate(encoded["input_ids"], encoded["attention_mask"], adapter, max_tokens)

    def _generate(self, ids: torch.Tensor, mask: torch.Tensor, adapter: str | None, max_tokens: int) -> list[str]:
        with torch.inference_mode(), self._using(adapter):
            output = self._model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False
            )
        return list(self._tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True))

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        if adapter is None:
            with self._model.disable_adapter():
                yield
        else:
            self._model.set_adapter(_peft_name(adapter))
            yield


def _peft_name(adapter: str) -> str:
    # PEFT makes it an attribute of a torch module, where `double` is taken.
    return f"task-{adapter}"
