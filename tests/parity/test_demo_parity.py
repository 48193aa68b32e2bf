"""The demo model under all its adapters in one mixed batch on a GPU, against float32 on a CPU.

The model was trained until it is sure of its answers, so that half precision has to give the same ones.
"""

import io
import random
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoTokenizer

from adapter_store.base_model import load_base_model
from adapter_store.config import Limits, ModelConfig
from adapter_store.peft.directory import canonicalise
from tests.e2e.demo_prompts import FILE, DemoPrompt, demo_prompts
from worker.engine.config import EngineConfig
from worker.engine.offline import Generation, OfflineEngine
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes
from worker.model.loader import load_model
from worker.types import EngineRequest, FinishReason, SamplingParams

FOLDER = FILE.parent
MAX_TOKENS = 40
SURE = 2.0  # nats by which the likeliest token leads; half precision errs by some hundredths


@dataclass(frozen=True)
class Question:
    """A demo prompt as tokens, and what float32 on a CPU answers."""

    prompt: DemoPrompt
    token_ids: tuple[int, ...]
    answer: tuple[int, ...] = ()


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda")


@pytest.fixture(scope="module")
def questions(gpu: torch.device) -> list[Question]:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base")
    asked = [Question(prompt, tuple(tokenizer(prompt.prompt)["input_ids"])) for prompt in demo_prompts()]
    random.Random(5).shuffle(asked)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with engine_of(torch.float32, torch.device("cpu"), num_pages=4000) as engine:
        said = ask(engine, asked, logprob_count=2)
    torch.set_num_threads(threads)
    answered = []
    for question, generation in zip(asked, said, strict=True):
        assert generation.finish_reason is FinishReason.STOP
        assert tokenizer.decode(generation.token_ids) == question.prompt.expected
        assert all(position.top[0][1] - position.top[1][1] > SURE for position in generation.logprobs)
        answered.append(replace(question, answer=tuple(generation.token_ids)))
    return answered


def engine_of(dtype: torch.dtype, device: torch.device, num_pages: int) -> OfflineEngine:
    """An engine whose pool has `num_pages` pages of 4 tokens."""
    model = load_model(FOLDER / "base", dtype, device)
    is_gpu = device.type == "cuda"
    config = EngineConfig(
        context_length=model.config.context_length,
        block_size=4,
        max_step_tokens=256,
        max_running=128,
        watermark=0.0,
        max_graph_rows=256 if is_gpu else 0,
        overlap=is_gpu,
    )
    page_bytes = page_size_bytes(PageGeometry(model.config.shape, config.block_size), dtype)
    return OfflineEngine(model, config, pool_bytes=num_pages * page_bytes, host_bytes=4000 * page_bytes)


def ask(engine: OfflineEngine, questions: list[Question], logprob_count: int | None = None) -> list[Generation]:
    """The answers to all questions, each under its own adapter."""
    base_model = load_base_model(ModelConfig(path=FOLDER / "base", name="demo"))
    hosted = {"": None}
    for name in {question.prompt.adapter for question in questions} - {""}:
        weights = io.BytesIO()
        canonicalise(FOLDER / "adapters" / name.removeprefix("demo/"), base_model, "", Limits(), weights)
        hosted[name] = engine.host(weights.getvalue(), "demo")
    requests = [
        EngineRequest(
            str(index),
            question.token_ids,
            MAX_TOKENS,
            SamplingParams(temperature=0.0),
            hosted[question.prompt.adapter],
            stop_token_ids=frozenset({1}),
            logprob_count=logprob_count,
        )
        for index, question in enumerate(questions)
    ]
    generations = engine.generate(requests)
    return [generations[request.request_id] for request in requests]


def check(questions: list[Question], said: list[Generation]) -> None:
    for question, generation in zip(questions, said, strict=True):
        assert generation.finish_reason is FinishReason.STOP, question.prompt
        assert tuple(generation.token_ids) == question.answer, question.prompt


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.gpu
def test_a_mixed_batch_of_all_adapters_answers_as_float32_on_a_cpu_does(
    questions: list[Question], dtype: torch.dtype, gpu: torch.device
) -> None:
    with engine_of(dtype, gpu, num_pages=4000) as engine:
        check(questions, ask(engine, questions))
        stats = engine.engine.step().stats
    assert stats.num_preemptions == 0
    assert stats.num_loads == 17


@pytest.mark.gpu
def test_preemption_eviction_and_reload_change_no_answer(
    questions: list[Question], dtype: torch.dtype, gpu: torch.device
) -> None:
    with engine_of(dtype, gpu, num_pages=440) as engine:
        check(questions, ask(engine, questions))
        stats = engine.engine.step().stats
    assert stats.num_preemptions > 0
    assert stats.num_loads > 50
