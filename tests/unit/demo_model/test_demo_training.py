"""The recipe: rows by seed, only answers learnt, and a loss that falls."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from examples.demo_model.adapter import train_adapter
from examples.demo_model.base_model import base_config
from examples.demo_model.corpus import ADAPTER_ROW_LENGTH, adapter_rows
from examples.demo_model.fitting import Schedule, fit
from examples.demo_model.prompts import PROMPTS_FILE
from examples.demo_model.tasks import ANSWER_MARK, TASKS
from examples.demo_model.tokenizer import BEGIN_ID, END_ID, PAD_ID, build_tokenizer
from examples.demo_model.train import BUDGETS, parse


def test_rows_follow_the_seed():
    first, again, other = adapter_rows("sort", 8, 1), adapter_rows("sort", 8, 1), adapter_rows("sort", 8, 2)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.learnt, again.learnt)
    assert not torch.equal(first.tokens, other.tokens)


def test_rows_hold_whole_examples_of_which_answers_are_learnt():
    rows = adapter_rows("upper", 32, 1)
    tokenizer = build_tokenizer()
    assert rows.tokens.shape == rows.learnt.shape == (32, ADAPTER_ROW_LENGTH)
    plain = 0
    for ids, learnt in zip(rows.tokens.tolist(), rows.learnt.tolist(), strict=True):
        assert ids[0] == BEGIN_ID
        texts = {True: "", False: ""}
        for token, mark in zip(ids[1:], learnt[1:], strict=True):
            texts[mark] += tokenizer.decode([token], skip_special_tokens=False)
            if mark and token == END_ID:
                asked, answer = texts[False], texts[True].removesuffix("<|end|>")
                plain += asked.endswith(ANSWER_MARK)
                word = asked.removesuffix(ANSWER_MARK).removeprefix("<|user|>").removesuffix("<|end|><|assistant|>")
                assert answer == TASKS["upper"].solve(word)
                texts = {True: "", False: ""}
        assert not texts[True]
        assert set(tokenizer.encode(texts[False], add_special_tokens=False).ids) <= {PAD_ID}
    assert plain > 32


def test_learning_rate_rises_then_falls():
    schedule = Schedule(100, 1, learning_rate=1.0, warmup=10)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert max(rates) == rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_fitting_lowers_the_loss(capsys):
    torch.manual_seed(0)
    config = base_config()
    config.num_hidden_layers = 1
    fit(
        LlamaForCausalLM(config),
        adapter_rows("parity", 16, 1),
        Schedule(20, 8, learning_rate=5e-3, warmup=2),
        seed=1,
        label="tiny",
    )
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] / 2


def test_training_an_adapter_writes_the_same_directory_each_time(tmp_path):
    for name in ("one", "two"):
        train_adapter(
            "max",
            TASKS["max"].adapter,
            Schedule(2, 2, learning_rate=1e-3, warmup=1),
            4,
            base=PROMPTS_FILE.parent / "base",
            folder=tmp_path / name,
            seed=3,
            device="cpu",
        )
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert {key.split(".layers.")[1][0] for key in one} == {"1", "2"}
    configs = [(tmp_path / name / "adapter_config.json").read_text() for name in ("one", "two")]
    assert configs[0] == configs[1]
    assert json.loads(configs[0])["base_model_name_or_path"] == "demo"
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(("device", "budget"), [("cpu", "small"), ("cuda", "full")])
def test_the_budget_fits_the_device(device, budget):
    assert parse(["--device", device]).budget is BUDGETS[budget]
    assert parse(["--device", device, "--budget", "full"]).budget is BUDGETS["full"]
