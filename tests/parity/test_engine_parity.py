"""The engine's greedy tokens equal those of transformers + PEFT in float32, through everything that it does at once.

Adapters come from their PEFT directories by way of the canonical file, as in production. Requests arrive two a step,
prompts are cut in chunks, and the pool is too small for all adapters and all KV, so that adapters are evicted and
loaded again and sequences are preempted and computed again.
"""

import io
import random
from dataclasses import replace

import pytest
import torch

from adapter_store.base_model import load_base_model
from adapter_store.config import Limits, ModelConfig
from adapter_store.peft.directory import canonicalise
from kernels.lora.batch import LoraBatch
from tests.parity.zoo import ADAPTERS, FAMILIES, Zoo, build
from worker.engine import batch
from worker.engine.config import EngineConfig
from worker.engine.offline import OfflineEngine
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes
from worker.model.batch import ForwardBatch
from worker.model.loader import load_model
from worker.types import EngineRequest, FinishReason, HostedAdapter, SamplingParams

BLOCK_SIZE = 4
MAX_TOKENS = 20
CONFIG = EngineConfig(
    context_length=48,
    block_size=BLOCK_SIZE,
    max_step_tokens=20,
    max_running=10,
    max_skips=3,
    watermark=0.0,
    overlap=True,
)


@pytest.fixture(scope="module", params=list(FAMILIES))
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def canonical_weights(zoo: Zoo, name: str) -> bytes:
    base_model = load_base_model(ModelConfig(path=zoo.model_directory, name="base"))
    sink = io.BytesIO()
    canonicalise(zoo.adapters[name].directory, base_model, "base", Limits(), sink)
    return sink.getvalue()


def make_engine(zoo: Zoo, device: torch.device, num_kv_pages: int, most_recorded: int = 10) -> OfflineEngine:
    """An engine with room for the largest adapter and `num_kv_pages` pages more.

    On a GPU it records steps of up to `most_recorded` rows.
    """
    model = load_model(zoo.model_directory, torch.float32, device)
    geometry = PageGeometry(model.config.shape, BLOCK_SIZE)
    largest = max(adapter.layout.num_pages(geometry) for adapter in zoo.adapters.values())
    page_bytes = page_size_bytes(geometry, torch.float32)
    pool_bytes = (largest + num_kv_pages) * page_bytes
    config = CONFIG if device.type == "cpu" else replace(CONFIG, max_graph_rows=most_recorded)
    return OfflineEngine(model, config, pool_bytes=pool_bytes, host_bytes=400 * page_bytes)


def draw_requests(hosted: dict[str, HostedAdapter], seed: int) -> list[EngineRequest]:
    """Each adapter twice and the base model four times, in random order; prompts of 1 to 28 tokens."""
    rng = random.Random(seed)
    names = [*ADAPTERS, *ADAPTERS, None, None, None, None]
    rng.shuffle(names)
    return [
        EngineRequest(
            request_id=f"{index}:{name or ''}",
            prompt_token_ids=tuple(rng.randrange(3, 131) for _ in range(rng.choice([1, 2, 9, 20, 28]))),
            max_tokens=MAX_TOKENS,
            sampling=SamplingParams(temperature=0.0),
            adapter=hosted[name] if name else None,
        )
        for index, name in enumerate(names)
    ]


def greedy_of(zoo: Zoo, request: EngineRequest, token_ids: list[int]) -> list[int]:
    """What the judge finds most likely at each position of the request's output."""
    prompt = list(request.prompt_token_ids)
    logits = zoo.logits(prompt + token_ids, request.request_id.partition(":")[2] or None)
    return logits[len(prompt) - 1 : -1].argmax(1).tolist()


@pytest.mark.parametrize("most_recorded", [10, 20])
def test_greedy_tokens_are_those_of_transformers_and_peft(
    most_recorded: int, zoo: Zoo, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu" and most_recorded > 10:
        pytest.skip("nothing is recorded on a CPU")
    monkeypatch.setattr(batch, "_LEAST_LEFT_OUT", 1)  # recorded steps of 20 rows tell 10 tokens
    with make_engine(zoo, device, num_kv_pages=30, most_recorded=most_recorded) as engine:
        hosted = {name: engine.host(canonical_weights(zoo, name), "base") for name in ADAPTERS}
        requests = draw_requests(hosted, seed=1)
        changes = []
        generations = engine.generate(requests, arrivals_per_step=2, on_step=lambda r: changes.extend(r.residency))
        for request in requests:
            generation = generations[request.request_id]
            assert generation.finish_reason is FinishReason.LENGTH
            assert len(generation.token_ids) == MAX_TOKENS
            assert generation.token_ids == greedy_of(zoo, request, generation.token_ids)
        assert engine.engine.step().stats.num_preemptions > 0
        assert sum(change.resident for change in changes) > len(ADAPTERS), "no adapter was loaded twice"


def test_seeded_tokens_are_the_same_alone_and_in_a_crowd(
    tmp_path_factory: pytest.TempPathFactory, device: torch.device
) -> None:
    zoo = build("qwen3", tmp_path_factory.mktemp("qwen3"))
    params = SamplingParams(temperature=0.9, top_p=0.9, repetition_penalty=1.1, frequency_penalty=0.2)
    with make_engine(zoo, device, num_kv_pages=30) as engine:
        hosted = {name: engine.host(canonical_weights(zoo, name), "base") for name in ADAPTERS}
        requests = [
            replace(request, sampling=replace(params, seed=1000 + index))
            for index, request in enumerate(draw_requests(hosted, seed=2))
        ]
        crowd = engine.generate(requests, arrivals_per_step=3)
        assert engine.engine.step().stats.num_preemptions > 0
        for request in requests:
            alone = engine.generate([request])
            assert alone[request.request_id].token_ids == crowd[request.request_id].token_ids


class SwappedModel:
    """Gives the rows of the first two live adapters each other's matrices."""

    def __init__(self, model: object) -> None:
        self._model = model

    def forward(self, batch: ForwardBatch, pages: torch.Tensor) -> torch.Tensor:
        if batch.lora is not None and len(batch.lora.slots) > 1:
            batch = replace(batch, lora=swapped(batch.lora))
        return self._model.forward(batch, pages)


def swapped(lora: LoraBatch) -> LoraBatch:
    order = [1, 0, *range(2, len(lora.slots))]
    return LoraBatch(row_start=lora.row_start, slots=lora.slots[order], directory=lora.directory)


def test_the_parity_test_notices_two_adapters_rows_swapped(tmp_path_factory: pytest.TempPathFactory) -> None:
    zoo = build("llama3", tmp_path_factory.mktemp("llama3"))
    with make_engine(zoo, torch.device("cpu"), num_kv_pages=100) as engine:
        pair = ("query_value", "some_layers")
        hosted = [engine.host(canonical_weights(zoo, name), "base") for name in pair]
        requests = [
            EngineRequest(f"{index}:{name}", (5, 9, 40), MAX_TOKENS, SamplingParams(temperature=0.0), adapter)
            for index, (name, adapter) in enumerate(zip(pair, hosted, strict=True))
        ]
        straight = engine.generate(requests)
        engine.engine._model = SwappedModel(engine.engine._model)
        crossed = engine.generate(requests)
    for request in requests:
        right, wrong = (found[request.request_id].token_ids for found in (straight, crossed))
        assert right == greedy_of(zoo, request, right)
        assert wrong != greedy_of(zoo, request, wrong)
