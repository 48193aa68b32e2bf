"""The sampler over rows with different parameters, against the reference row by row."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.sampling.naive import reference_draw, reference_penalties, reference_probabilities
from worker.engine.noise import uniforms
from worker.engine.sampler import NO_TOKEN, Sampler
from worker.engine.sequence import Sequence
from worker.types import EngineRequest, SamplingParams

VOCAB = 60
GREEDY = SamplingParams(temperature=0.0)


def sequence(params: SamplingParams, num_output: int = 3, seed: int = 0, logprob_count: int | None = None) -> Sequence:
    """A sequence of random tokens, of which the last `num_output` are output."""
    rng = random.Random(seed)
    prompt, output = ([rng.randrange(VOCAB) for _ in range(n)] for n in (9, num_output))
    request = EngineRequest(
        f"r{seed}", tuple(prompt), 100, params, resumed_token_ids=tuple(output), logprob_count=logprob_count
    )
    return Sequence(request, seed, context_length=1000)


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.3, 1.0, 1.7]),
        top_k=rng.choice([0, 0, 1, 10, 1000]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.4]),
        min_p=rng.choice([0.0, 0.0, 0.1, 0.9]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.6]),
        presence_penalty=rng.choice([0.0, 0.0, 0.7, -2.0]),
        frequency_penalty=rng.choice([0.0, 0.0, 1.1, -0.4]),
        seed=rng.randrange(-(2**63), 2**63),
    )


def logits_of(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def has_penalty(params: SamplingParams) -> bool:
    return (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1.0, 0.0, 0.0)


def reference_token(logits: Tensor, s: Sequence) -> int:
    p = s.sampling
    prompt, output = s.token_ids[: s.num_prompt].tolist(), s.token_ids[s.num_prompt :].tolist()
    penalised = reference_penalties(
        logits, prompt, output, p.repetition_penalty, p.presence_penalty, p.frequency_penalty
    )
    probabilities = reference_probabilities(penalised, p.temperature, p.top_k, p.top_p, p.min_p)
    return reference_draw(probabilities, float(uniforms(np.array([p.seed]), np.array([len(output)]))[0]))


def sample(logits: Tensor, sequences: list[Sequence]) -> list[int]:
    return Sampler(torch.device("cpu")).sample(logits, sequences).token_ids


@pytest.mark.parametrize("seed", range(8))
def test_mixed_rows_equal_the_reference(seed: int, device: torch.device) -> None:
    rng = random.Random(seed)
    sequences = [sequence(random_params(rng), rng.randrange(12), seed=i) for i in range(64)]
    logits = logits_of(64, seed)
    there = logits.to(device)
    sampled = Sampler(device).sample(there, sequences)
    assert torch.equal(there.cpu(), logits), "the logits were changed"
    assert sampled.token_ids == [reference_token(logits[i], s) for i, s in enumerate(sequences)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=3),
        SamplingParams(temperature=0.5, seed=3),
        SamplingParams(top_k=4, seed=3),
        SamplingParams(top_p=0.6, seed=3),
        SamplingParams(min_p=0.3, seed=3),
        SamplingParams(temperature=0.0, repetition_penalty=1.8),
        SamplingParams(temperature=0.0, presence_penalty=2.0),
        SamplingParams(temperature=0.0, frequency_penalty=2.0),
    ],
)
def test_each_parameter_alone_equals_the_reference_and_has_an_effect(params: SamplingParams) -> None:
    sequences = [sequence(params, num_output=i % 20, seed=i) for i in range(200)]
    logits = logits_of(200)
    tokens = sample(logits, sequences)
    assert tokens == [reference_token(logits[i], s) for i, s in enumerate(sequences)]
    neutral = GREEDY if params.is_greedy else SamplingParams(seed=params.seed, temperature=0.99)
    assert tokens != sample(logits, [sequence(neutral, i % 20, seed=i) for i in range(200)])


def test_the_smallest_repetition_penalty_still_draws_a_token_that_was_seen() -> None:
    logits = logits_of(1)
    s = sequence(SamplingParams(repetition_penalty=1e-45))
    (token,) = sample(logits, [s])
    assert token in s.token_ids
    assert logits[0, token] > 0


def test_greedy_takes_the_lowest_of_equal_tokens() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, [7, 20, 41]] = 5.0
    assert sample(logits, [sequence(GREEDY)] * 2) == [7, 7]


def test_a_row_does_not_depend_on_the_others() -> None:
    rng = random.Random(1)
    sequences = [sequence(random_params(rng), seed=i) for i in range(32)]
    logits = logits_of(32)
    together = sample(logits, sequences)
    alone = [sample(logits[i : i + 1], [s])[0] for i, s in enumerate(sequences)]
    backwards = sample(logits.flip(0), sequences[::-1])[::-1]
    assert together == alone == backwards


def test_the_next_position_draws_another_number() -> None:
    s = sequence(SamplingParams(temperature=2.0, seed=11), num_output=0)
    sampler = Sampler(torch.device("cpu"))
    logits = torch.zeros(1, VOCAB)
    drawn = []
    for _ in range(10):
        drawn += sampler.sample(logits, [s]).token_ids
        s.append(drawn[-1])
    assert len(set(drawn)) > 3


def test_the_sampler_notices_another_batch() -> None:
    sampler = Sampler(torch.device("cpu"))
    logits = logits_of(2)
    greedy, drawn = sequence(GREEDY, seed=1), sequence(SamplingParams(temperature=2.0, seed=1), seed=2)
    first = sampler.sample(logits, [greedy, drawn]).token_ids
    second = sampler.sample(logits, [drawn, greedy]).token_ids
    assert first == [reference_token(logits[0], greedy), reference_token(logits[1], drawn)]
    assert second == [reference_token(logits[0], drawn), reference_token(logits[1], greedy)]


def test_logprobs_are_the_models_own() -> None:
    params = SamplingParams(temperature=0.4, top_k=2, repetition_penalty=1.9, presence_penalty=1.0, seed=5)
    sequences = [
        sequence(params, seed=1, logprob_count=3),
        sequence(GREEDY, seed=2),
        sequence(GREEDY, seed=3, logprob_count=0),
        sequence(params, seed=4, logprob_count=VOCAB + 5),
    ]
    logits = logits_of(4)
    sampled = Sampler(torch.device("cpu")).sample(logits, sequences)
    expected = logits.double().log_softmax(dim=-1)
    assert sorted(sampled.logprobs) == [0, 2, 3]
    for row, num_top in ((0, 3), (2, 0), (3, VOCAB)):
        found = sampled.logprobs[row]
        assert found.token_id == sampled.token_ids[row]
        assert found.logprob == pytest.approx(float(expected[row, found.token_id]), abs=1e-5)
        best = sorted(range(VOCAB), key=lambda token, row=row: (-float(expected[row, token]), token))[:num_top]
        assert [token for token, _ in found.top] == best
        assert [value for _, value in found.top] == pytest.approx([float(expected[row, t]) for t in best], abs=1e-5)


@pytest.mark.gpu
def test_nobody_waits_for_the_device_before_the_values_are_asked_for() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    rng = random.Random(5)
    sequences = [sequence(random_params(rng), seed=i, logprob_count=(2, None, 0)[i % 3]) for i in range(30)]
    logits, sampler = logits_of(30).cuda(), Sampler(torch.device("cuda"))
    expected = sampler.sample(logits, sequences).token_ids  # and all is compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = [sampler.sample(logits, list(reversed(sequences))), sampler.sample(logits, sequences)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert again[1].token_ids == expected
    assert sorted(again[0].logprobs) == [row for row in range(30) if (29 - row) % 3 != 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_no_distribution_gets_no_token_and_changes_no_other(value: float, device: torch.device) -> None:
    rng = random.Random(3)
    sequences = [sequence(random_params(rng), seed=i, logprob_count=(2, None, None)[i % 3]) for i in range(30)]
    logits = logits_of(30)
    spoilt = logits.clone()
    spoilt[::2, 17] = value
    whole, partly = (Sampler(device).sample(rows.to(device), sequences) for rows in (logits, spoilt))
    for row, s in enumerate(sequences):
        if row % 2:
            assert partly.token_ids[row] == whole.token_ids[row]
            assert partly.logprobs.get(row) == whole.logprobs.get(row)
        elif math.isnan(value) or not has_penalty(s.sampling):  # penalties leave nothing infinite
            assert partly.token_ids[row] == NO_TOKEN
