"""Hugging Face: transformers' own `generate`, with PEFT's adapters.

As in the S-LoRA paper: requests of one adapter are batched, and the adapter is switched between batches. Everything
that is not serving is left out of the time: adapters are made, and are in the GPU's memory, before the clock goes on.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.serve.outcome import Run, Stream
from benchmarks.serve.setups import Setup
from benchmarks.serve.workload import Item
from worker.memory.layout import MODULES

_MAX_ROWS = 32  # of a batch
_PAD = 0
_WARM_TOKENS = 16


class PeftServer:
    """A Llama with random weights, and random adapters made as they are asked for."""

    def __init__(self, setup: Setup, device: torch.device, seconds: float) -> None:
        """Begins no batch after so many seconds of serving."""
        self._setup = setup
        self._device = device
        self._seconds = seconds
        self._model: Any = _base(setup, device)
        self._known: set[int] = set()

    def run(self, items: Sequence[Item]) -> Run:
        """Serves what there is time for; figures are of that alone."""
        left = sorted(items, key=lambda item: item.arrival_s)
        streams: list[Stream] = []
        num_prompt_tokens = 0
        now = 0.0
        while left and now < self._seconds:
            now = max(now, left[0].arrival_s)
            batch = next_batch(left, now)
            for item in batch:
                left.remove(item)
            times = self._generate(batch)
            for item in batch:
                first, last = now + times[0], now + times[item.num_output - 1]
                streams.append(Stream(item.arrival_s, item.num_output, first, last))
                num_prompt_tokens += len(item.prompt)
            now += times[-1]
        return Run(now, streams, num_prompt_tokens, extra={"num_left_out": len(left)})

    def _generate(self, batch: Sequence[Item]) -> list[float]:
        """Seconds from the start to each step's token."""
        prompts, mask = _padded(batch, self._device)
        from transformers import StoppingCriteriaList  # noqa: PLC0415 - of this peer alone

        times: list[float] = []

        def note(token_ids: Tensor, *_: object, **__: object) -> Tensor:
            self._synchronize()
            times.append(time.perf_counter() - begin)
            return torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)

        with self._adapter(batch[0].adapter), torch.inference_mode():
            self._synchronize()
            begin = time.perf_counter()
            self._model.generate(
                input_ids=prompts,
                attention_mask=mask,
                max_new_tokens=max(item.num_output for item in batch),
                do_sample=False,
                eos_token_id=None,
                pad_token_id=_PAD,
                stopping_criteria=StoppingCriteriaList([note]),
            )
        return times

    def _adapter(self, adapter: int | None) -> Any:
        """The model with this adapter, made first if it is new."""
        if adapter is None:
            return self._model.disable_adapter() if self._known else nullcontext()
        if adapter not in self._known:
            self._make(adapter)
            self._known.add(adapter)
        self._model.set_adapter(str(adapter))
        return nullcontext()

    def _make(self, adapter: int) -> None:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - of this peer alone

        rank = self._setup.ranks[adapter % len(self._setup.ranks)]
        targets = [f"{module}_proj" for module in MODULES if module in self._setup.targets]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False)
        with torch.device(self._device):
            if self._known:
                self._model.add_adapter(str(adapter), config, autocast_adapter_dtype=False)
            else:
                self._model = get_peft_model(self._model, config, str(adapter), autocast_adapter_dtype=False)
        self._model.eval()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def peft_server(setup: Setup, device: torch.device, seconds: float, items: Sequence[Item]) -> Iterator[PeftServer]:
    """One that has begun to serve the first of `items`, without an adapter."""
    server = PeftServer(setup, device, seconds)
    server.run([Item(None, item.prompt, min(item.num_output, _WARM_TOKENS)) for item in items[:1]])
    yield server


def next_batch(waiting: Sequence[Item], now: float) -> list[Item]:
    """What has come and has the adapter of the one that waits longest; `waiting` is in order of arrival."""
    adapter = waiting[0].adapter
    return [item for item in waiting if item.arrival_s <= now and item.adapter == adapter][:_MAX_ROWS]


def _padded(batch: Sequence[Item], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts and their mask, `[num_requests, longest]`; padded on the left, so that new tokens are side by side."""
    longest = max(len(item.prompt) for item in batch)
    prompts = torch.full((len(batch), longest), _PAD, device=device)
    mask = torch.zeros_like(prompts)
    for row, item in enumerate(batch):
        prompts[row, longest - len(item.prompt) :] = torch.tensor(item.prompt, device=device)
        mask[row, longest - len(item.prompt) :] = 1
    return prompts, mask


def _base(setup: Setup, device: torch.device) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - of this peer alone

    with tempfile.TemporaryDirectory() as directory:
        setup.write_config(Path(directory))
        config = AutoConfig.from_pretrained(directory)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=_dtype(device), attn_implementation="sdpa").eval()


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16
