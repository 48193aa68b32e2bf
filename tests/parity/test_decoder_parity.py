"""Logits and greedy tokens equal transformers + PEFT with each adapter alone, whatever else is in the batch."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.parity.harness import Harness, Run
from tests.parity.zoo import ADAPTERS, FAMILIES, Zoo, build
from worker.model.loader import load_model

NEW_TOKENS = 17
LOGITS_ATOL = 2e-5


@pytest.fixture(scope="module", params=list(FAMILIES))
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def draw_runs(seed: int) -> list[Run]:
    """Every adapter once, two of them twice, and the base model three times; prompts of 1 to 25 tokens."""
    rng = random.Random(seed)
    names = [*ADAPTERS, None, None, None, "patterns", "everything"]
    lengths = [1, 25, 24, 2] + [rng.randint(3, 22) for _ in names[4:]]
    return [Run([rng.randrange(3, 131) for _ in range(n)], name) for name, n in zip(names, lengths, strict=True)]


def run_mixed(harness: Harness, runs: list[Run], chunks: list[int]) -> None:
    """Starts two runs a step, so that chunks of prompts, of these sizes in turn, meet decodes of other runs."""
    goals = {run: len(run.token_ids) + NEW_TOKENS for run in runs}
    started = 0
    while True:
        started += 2
        work = []
        for index, run in enumerate(runs[:started]):
            left = len(run.token_ids) - run.num_computed
            if left == 0 and len(run.token_ids) < goals[run]:
                run.take_greedy()
                left = 1
            if left:
                work.append((run, min(left, chunks[(index + started) % len(chunks)])))
        if not work:
            return
        harness.step(work)


def test_a_mixed_batch_is_exact(zoo: Zoo, device: torch.device) -> None:
    model = load_model(zoo.model_directory, torch.float32, device)
    runs = draw_runs(seed=1)
    prompt_lengths = [len(run.token_ids) for run in runs]
    run_mixed(Harness(model, zoo.adapters), runs, chunks=[1, 5, 3, 9, 2, 30])
    for run, prompt_length in zip(runs, prompt_lengths, strict=True):
        expected = zoo.logits(run.token_ids, run.adapter)
        torch.testing.assert_close(torch.stack(run.logits), expected, atol=LOGITS_ATOL, rtol=0)
        greedy = expected[prompt_length - 1 : -1].argmax(1).tolist()
        assert run.token_ids[prompt_length:] == greedy
        assert len(greedy) == NEW_TOKENS


def test_adapters_change_the_answer(zoo: Zoo) -> None:
    """Otherwise the tests above would prove little."""
    prompt = draw_runs(seed=1)[1].token_ids
    base = zoo.logits(prompt, None)
    answers = [zoo.logits(prompt, name) for name in ADAPTERS]
    for index, answer in enumerate(answers):
        for other in (base, *answers[:index]):
            assert (answer - other).abs().max() > 1000 * LOGITS_ATOL


@pytest.mark.parametrize("chunks", [[1], [3, 7], [4], [5, 1, 11], [8, 2]])
def test_chunks_of_a_prompt_may_end_anywhere(zoo: Zoo, chunks: list[int], device: torch.device) -> None:
    model = load_model(zoo.model_directory, torch.float32, device)
    prompt = draw_runs(seed=3)[1].token_ids
    whole, cut = Run(prompt, "everything"), Run(prompt, "everything")
    harness = Harness(model, zoo.adapters)
    harness.step([(whole, len(prompt))])
    turn = 0
    while cut.num_computed < len(prompt):
        harness.step([(cut, min(chunks[turn % len(chunks)], len(prompt) - cut.num_computed))])
        turn += 1
    torch.testing.assert_close(torch.stack(cut.logits), torch.stack(whole.logits), atol=LOGITS_ATOL, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama3", "mistral", "qwen2", "qwen3"])
def test_half_precision_is_as_close_as_transformers_is(
    family: str, dtype: torch.dtype, tmp_path: Path, device: torch.device
) -> None:
    """Against float32, our logits err no more than 1.5 times as much as those of transformers + PEFT."""
    zoo = build(family, tmp_path)
    runs = draw_runs(seed=2)
    exact = [zoo.logits(run.token_ids, run.adapter) for run in runs]
    zoo.judge.to(dtype)
    theirs = [zoo.logits(run.token_ids, run.adapter) for run in runs]
    harness = Harness(load_model(zoo.model_directory, dtype, device), zoo.adapters)
    harness.step([(run, len(run.token_ids)) for run in runs])

    def error(logits: list[torch.Tensor]) -> float:
        return float((torch.cat(logits) - torch.cat(exact)).square().mean().sqrt())

    ours = [torch.stack(run.logits) for run in runs]
    assert error(ours) < 1.5 * error(theirs)
    assert error(theirs) > 0


def test_only_wanted_rows_have_logits(zoo: Zoo, device: torch.device) -> None:
    model = load_model(zoo.model_directory, torch.float32, device)
    harness = Harness(model, zoo.adapters)
    batch = harness.batch([(run, len(run.token_ids)) for run in draw_runs(seed=4) if run.adapter is None])
    rows = torch.tensor([3, 0, 7], device=device)
    everything = model.decoder.forward(batch, harness.pages)
    wanted = model.decoder.forward(replace(batch, logit_rows=rows), harness.pages)
    assert wanted.dtype == torch.float32
    torch.testing.assert_close(wanted, everything[rows], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("wanted", [[], [0], [3, 11], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]], ids=len)
def test_past_the_last_attention_wanted_rows_suffice(wanted: list[int], zoo: Zoo, device: torch.device) -> None:
    """Of a batch whose other rows are of the same sequences, of others and of other adapters."""
    model = load_model(zoo.model_directory, torch.float32, device)
    harness = Harness(model, zoo.adapters)
    batch = harness.batch([(run, len(run.token_ids)) for run in draw_runs(seed=4)])
    assert batch.lora is not None
    everything = model.decoder.forward(batch, harness.pages)
    ends = batch.attention.query_start[1:].long() - 1
    assert len(ends) > max(wanted, default=0)
    rows = ends[wanted]
    first_logits = torch.searchsorted(rows, batch.lora.row_start.long()).int()
    fillers = torch.zeros(3, dtype=torch.int64, device=device) if device.type == "cuda" else rows[:0]
    narrow = replace(
        batch,
        logit_rows=torch.cat((rows, fillers)),
        is_narrow=True,
        logit_lora=batch.lora.with_last_rows(first_logits),
    )
    logits = model.decoder.forward(narrow, harness.pages)
    assert logits.shape == (len(rows) + len(fillers), everything.shape[1])
    torch.testing.assert_close(logits[: len(rows)], everything[rows], atol=1e-5, rtol=1e-5)
