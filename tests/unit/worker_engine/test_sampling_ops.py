"""Each sampling op against its reference, which takes one row at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.sampling.draw import draw
from kernels.sampling.naive import reference_draw, reference_penalties, reference_probabilities
from kernels.sampling.penalties import apply_penalties
from kernels.sampling.truncation import scale, truncate
from worker.engine.noise import uniforms


@dataclass(frozen=True)
class Truncation:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


TRUNCATIONS = [
    Truncation(),
    Truncation(temperature=0.3),
    Truncation(temperature=2.0),
    Truncation(temperature=1e-30),
    Truncation(top_k=1),
    Truncation(top_k=5),
    Truncation(top_k=100_000),
    Truncation(top_p=0.5),
    Truncation(top_p=1e-9),
    Truncation(min_p=0.2),
    Truncation(min_p=1.0),
    Truncation(temperature=0.7, top_k=20, top_p=0.8, min_p=0.05),
]


def logits_of(num_rows: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def truncated(logits: Tensor, params: list[Truncation]) -> Tensor:
    scaled = scale(logits, torch.tensor([p.temperature for p in params]))
    return truncate(
        scaled,
        torch.tensor([p.top_k for p in params]),
        torch.tensor([p.top_p for p in params], dtype=torch.float64),
        torch.tensor([p.min_p for p in params], dtype=torch.float64),
    )


@pytest.mark.parametrize("vocab", [2, 7, 133, 1000])
def test_truncation_equals_the_reference_for_rows_with_different_parameters(vocab: int) -> None:
    logits = logits_of(len(TRUNCATIONS), vocab)
    probabilities = truncated(logits, TRUNCATIONS).softmax(dim=-1)
    for row, params in enumerate(TRUNCATIONS):
        expected = reference_probabilities(
            logits[row], params.temperature, params.top_k, params.top_p, params.min_p
        ).float()
        assert torch.equal(probabilities[row] > 0, expected > 0) or params.temperature == 1e-30
        torch.testing.assert_close(probabilities[row], expected, atol=1e-6, rtol=1e-4)


def test_ties_are_kept_in_the_order_of_ids() -> None:
    kept = truncated(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), [Truncation(top_k=2)])
    assert torch.isfinite(kept).tolist() == [[False, True, True, False]]


def test_penalties_equal_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = logits_of(4, 50)
    prompts = [torch.randint(50, (n,), generator=generator).tolist() for n in (1, 10, 30, 5)]
    outputs = [torch.randint(50, (n,), generator=generator).tolist() for n in (0, 7, 40, 1)]
    repetition, presence, frequency = [1.0, 1.5, 0.5, 2.0], [0.0, 0.5, -1.0, 2.0], [0.0, -0.5, 1.0, 0.1]
    seen = [row * 50 + token for row in range(4) for token in prompts[row] + outputs[row]]
    output = [row * 50 + token for row in range(4) for token in outputs[row]]
    before = logits.clone()
    penalised = apply_penalties(
        logits,
        torch.tensor(seen),
        torch.tensor(output),
        torch.tensor(repetition),
        torch.tensor(presence),
        torch.tensor(frequency),
    )
    assert torch.equal(logits, before)
    for row in range(4):
        expected = reference_penalties(
            logits[row], prompts[row], outputs[row], repetition[row], presence[row], frequency[row]
        )
        torch.testing.assert_close(penalised[row].double(), expected, atol=1e-5, rtol=1e-5)


def test_draw_equals_the_reference() -> None:
    logits = logits_of(64, 40)
    logits[:, ::3] = -torch.inf
    noise = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = draw(logits, noise).tolist()
    for row, token in enumerate(drawn):
        assert token == reference_draw(logits[row].double().softmax(dim=-1), float(noise[row]))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_kept_tokens(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.3, 1.0, 0.2, -torch.inf, -torch.inf]])
    assert draw(logits, torch.tensor([uniform], dtype=torch.float64)).tolist() == [1 if uniform == 0 else 3]


def test_draws_follow_the_distribution() -> None:
    num_draws = 20_000
    noise = uniforms(np.full(num_draws, 5), np.arange(num_draws))
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    drawn = draw(logits.expand(num_draws, -1), torch.from_numpy(noise))
    shares = torch.bincount(drawn, minlength=4) / num_draws
    torch.testing.assert_close(shares, logits.softmax(dim=-1), atol=0.015, rtol=0)


def test_noise_depends_on_seed_and_position_alone() -> None:
    seeds = np.array([0, 1, -1, 2**63 - 1, -(2**63), 7])
    positions = np.array([0, 1, 2, 3, 4, 5])
    together = uniforms(seeds, positions)
    alone = [uniforms(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(6)]
    assert together.tolist() == alone
    assert len(set(alone)) == 6
    assert all(0 <= u < 1 for u in alone)


def test_noise_is_a_known_sequence() -> None:
    """A change here changes every seeded answer."""
    assert uniforms(np.zeros(3, dtype=np.int64), np.arange(3)).tolist() == [
        0.6524484863740322,
        0.7012121095215252,
        0.3871241409757855,
    ]


def test_neighbouring_seeds_and_positions_look_independent() -> None:
    grid = np.stack([uniforms(np.full(512, seed), np.arange(512)) for seed in range(512)])
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.01
    assert np.histogram(grid, bins=16, range=(0, 1))[0].std() < 512 * 512 / 16 * 0.03
