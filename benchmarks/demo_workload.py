"""The demo model's adapters and prompts, as work for an engine and as work for the whole stack."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from adapter_store.base_model import load_base_model
from adapter_store.config import Limits
from adapter_store.config import ModelConfig as StoreModelConfig
from adapter_store.peft.directory import canonicalise
from worker.engine.config import EngineConfig
from worker.engine.offline import OfflineEngine
from worker.model.loader import load_model
from worker.types import EngineRequest, HostedAdapter, SamplingParams

DEMO_MODEL = Path(__file__).parents[1] / "examples" / "demo_model"
BASE_MODEL = "demo"
MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """One request: adapter name ("" is the base model), prompt, and how many tokens to generate, come what may."""

    adapter: str
    prompt: str
    num_tokens: int


def adapter_directories() -> list[Path]:
    """The demo's PEFT directories, by name."""
    return sorted(path.parent for path in (DEMO_MODEL / "adapters").glob("*/adapter_config.json"))


def crowd(num_requests: int, num_adapters: int, num_tokens: int) -> list[Work]:
    """Requests over the first `num_adapters` adapters in turn; 0: the base model alone."""
    rows = map(json.loads, (DEMO_MODEL / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
    prompts = [row["prompt"] for row in rows if row["adapter"]]
    names = [directory.name for directory in adapter_directories()][:num_adapters] or [""]
    return [Work(names[i % len(names)], prompts[i % len(prompts)], num_tokens) for i in range(num_requests)]


class DemoEngine:
    """An engine with the demo model and every demo adapter in host memory, on one thread."""

    def __init__(self, *, pool_bytes: int = 256 * MIB, max_running: int = 64) -> None:
        torch.set_num_threads(1)
        model = load_model(DEMO_MODEL / "base", torch.float32, torch.device("cpu"))
        config = EngineConfig(context_length=model.config.context_length, max_running=max_running)
        self._offline = OfflineEngine(model, config, pool_bytes=pool_bytes, host_bytes=256 * MIB)
        store_model = load_base_model(StoreModelConfig(path=DEMO_MODEL / "base", name=BASE_MODEL))
        self._adapters: dict[str, HostedAdapter | None] = {"": None}
        for directory in adapter_directories():
            weights = io.BytesIO()
            canonicalise(directory, store_model, "", Limits(), weights)
            self._adapters[directory.name] = self._offline.host(weights.getvalue(), BASE_MODEL)

    def run(self, works: list[Work], prompts: dict[str, tuple[int, ...]]) -> int:
        """Runs requests that arrive together, greedily; returns the tokens generated."""
        requests = [
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=prompts[work.prompt],
                max_tokens=work.num_tokens,
                sampling=SamplingParams(temperature=0.0),
                adapter=self._adapters[work.adapter],
            )
            for index, work in enumerate(works)
        ]
        done = self._offline.generate(requests)
        assert all(generation.failure is None for generation in done.values())
        return sum(len(generation.token_ids) for generation in done.values())

    def close(self) -> None:
        """Gives back its memory."""
        self._offline.close()


def tokenised(works: list[Work]) -> dict[str, tuple[int, ...]]:
    """Token ids of every prompt, as the control plane would make them."""
    from transformers import AutoTokenizer  # noqa: PLC0415 -- slow to import

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL / "base")
    return {work.prompt: tuple(tokenizer(work.prompt)["input_ids"]) for work in works}
