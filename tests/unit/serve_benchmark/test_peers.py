"""Peers serve the same requests, and say so where they are not installed."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import PeftConfig

from benchmarks.serve.adapter_files import write_peft
from benchmarks.serve.peers.peft import next_batch, peft_server
from benchmarks.serve.peers.vllm import NotInstalled, vllm_server
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import Item

TINY = SETUPS["tiny"]


def test_adapters_are_written_as_peft_writes_them(tmp_path: Path) -> None:
    for adapter in (0, 1, 2):
        write_peft(TINY, adapter, tmp_path / str(adapter))
    first, second, third = (
        safetensors.torch.load_file(tmp_path / str(adapter) / "adapter_model.safetensors") for adapter in (0, 1, 2)
    )
    assert PeftConfig.from_pretrained(tmp_path / "1").r == 8
    assert len(first) == 2 * 7 * 2
    down = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    assert (second[down.format("A")].shape, second[down.format("B")].shape) == ((8, 128), (64, 8))
    assert first[down.format("A")].dtype == torch.bfloat16
    assert not torch.equal(first[down.format("A")], third[down.format("A")]), "of one rank, and other numbers"
    assert first[down.format("A")].float().std() == pytest.approx(0.02, rel=0.2)


def test_requests_of_one_adapter_that_have_come_are_a_batch() -> None:
    waiting = [Item(adapter, (1,), 1, at) for adapter, at in ((3, 0.0), (None, 0.1), (3, 0.2), (3, 9.0))]
    assert next_batch(waiting, 1.0) == [waiting[0], waiting[2]]
    assert next_batch(waiting[1:], 1.0) == [waiting[1]]
    assert len(next_batch([waiting[0]] * 99, 1.0)) == 32


def test_peft_serves_each_request_with_its_adapter() -> None:
    items = [Item(adapter, tuple(range(1, 4 + index)), 2 + index) for index, adapter in enumerate((0, 1, None, 0))]
    with peft_server(TINY, torch.device("cpu"), 60, []) as server:
        run = server.run(items)
        used = list(server._model.peft_config)
    assert used == ["0", "1"]
    assert [stream.num_tokens for stream in run.streams] == [2, 5, 3, 4], "by adapter"
    assert run.summary()["num_left_out"] == 0
    assert all(0 < stream.first <= stream.last <= run.seconds for stream in run.streams)
    assert run.streams[1].first == run.streams[0].first, "one batch"
    assert run.streams[2].first > run.streams[1].last, "the next"
    with peft_server(TINY, torch.device("cpu"), 0.0, []) as server:
        assert server.run(items).extra == {"num_left_out": 4}


def test_peft_reads_no_padding() -> None:
    """A request's tokens are the same whatever else is in its batch."""
    torch.manual_seed(0)
    with peft_server(TINY, torch.device("cpu"), 60, []) as server:
        seen: list[torch.Tensor] = []
        generate = server._model.generate
        server._model.generate = lambda **options: seen.append(generate(**options)) or seen[-1]
        server.run([Item(None, (5, 6, 7), 8)])
        server.run([Item(None, (5, 6, 7), 8), Item(None, tuple(range(20)), 8)])
    assert seen[0][0, -8:].tolist() == seen[1][0, -8:].tolist()


def test_vllm_that_is_not_there_is_said() -> None:
    with pytest.raises(NotInstalled, match="pip install vllm"), vllm_server(TINY, [], 1024):
        pass


class _Llm:
    """What this benchmark uses of vLLM's LLM."""

    def __init__(self, model: str, **options: Any) -> None:
        assert json.loads((Path(model) / "config.json").read_text())["vocab_size"] == 256
        self.options, self.calls = options, []

    def generate(self, prompts: list, params: list, lora_request: list | None, use_tqdm: bool) -> list:
        self.calls.append((prompts, params, lora_request))
        metrics = SimpleNamespace(first_token_latency=0.5, first_token_ts=10.0, last_token_ts=12.0)
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1] * own.max_tokens)], metrics=metrics)
            for own in params
        ]


def test_vllm_gets_the_same_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = _Llm, SimpleNamespace
    request.LoRARequest = lambda name, number, path: (name, number, Path(path).is_dir())
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    items = [Item(4, (1, 2), 3), Item(None, (5,), 7)]
    with vllm_server(TINY, items, 1024) as server:
        run = server.run(items)
        llm = server._llm
        with pytest.raises(ValueError, match="--rate"):
            server.run([Item(4, (1, 2), 3, arrival_s=1.0)])
    assert (llm.options["max_loras"], llm.options["max_lora_rank"], llm.options["max_cpu_loras"]) == (1, 8, 1)
    with vllm_server(replace(TINY, ranks=(2, 4)), [Item(4, (5,), 7)], 1024) as of_rank_4:
        assert of_rank_4._llm.options["max_lora_rank"] == 8, "it may not be 4"
    prompts, params, lora_request = llm.calls[-1]
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [[1, 2], [5]]
    assert [(own.max_tokens, own.ignore_eos, own.temperature) for own in params] == [(3, True, 0.0), (7, True, 0.0)]
    assert lora_request == [("4", 5, True), None]
    assert [(stream.num_tokens, stream.first, stream.last) for stream in run.streams] == [(3, 0.5, 2.5), (7, 0.5, 2.5)]
