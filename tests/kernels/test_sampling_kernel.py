"""Sampling in Triton: on a GPU where there is one, else in Triton's interpreter.

The judge computes in float64. The kernel's token has to be the judge's, unless the uniform, top-p or min-p lies within
`MARGIN` of where the judge's token changes: there rounding decides.
"""

import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.sampling import Choices, Penalties, kernel, reference
from kernels.sampling.naive import reference_draw, reference_penalties, reference_probabilities
from tests.kernels.buffers import DEVICE, poisoned, same_bits, untouched
from tests.kernels.sampling_cases import ROWS, Row, choices_of, draw_logits

MARGIN = 1e-5


def sample(logits: Tensor, rows: list[Row], penalties: Penalties | None = None) -> list[int]:
    choices = choices_of(rows)
    uniforms = torch.tensor([row.uniform for row in rows], dtype=torch.float64, device=DEVICE)
    tokens: list[int] = kernel.sample(logits, choices, uniforms if choices.has_draws else None, penalties).tolist()
    return tokens


def judged(logits: Tensor, row: Row) -> int:
    probabilities = reference_probabilities(logits, row.temperature, row.top_k, row.top_p, row.min_p)
    return reference_draw(probabilities, row.uniform)


def assert_judged(tokens: list[int], logits: Tensor, rows: list[Row]) -> None:
    for index, (token, scores, row) in enumerate(zip(tokens, logits.cpu(), rows, strict=True)):
        if token == judged(scores, row):
            continue
        near = {
            judged(
                scores,
                replace(
                    row,
                    top_p=row.top_p if row.top_p == 1 else row.top_p * a,
                    min_p=row.min_p * b,
                    uniform=min(max(row.uniform + c, 0.0), 1.0),
                ),
            )
            for a, b, c in product((1 - MARGIN, 1 + MARGIN), (1 - MARGIN, 1.0), (-MARGIN, MARGIN))
        }
        assert token in near, f"row {index}, {row}"


@pytest.mark.parametrize("vocab", [1, 2, 7, 133])
def test_rows_with_different_parameters(vocab: int) -> None:
    logits, around = poisoned(draw_logits(len(ROWS), vocab))
    before = logits.clone()
    assert_judged(sample(logits, ROWS), before, ROWS)
    assert same_bits(logits, before)
    assert untouched(logits, around)


def test_a_vocabulary_of_several_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_SPLIT", 32)
    logits = draw_logits(len(ROWS), 133, seed=1)
    assert_judged(sample(logits, ROWS), logits, ROWS)


@pytest.mark.parametrize("num_candidates", [4, 32])
def test_rows_that_keep_more_than_the_candidates(num_candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_SPLIT", 64)
    monkeypatch.setattr(kernel, "_CANDIDATES", num_candidates)
    rows = [
        Row(top_k=9, uniform=0.9),
        Row(2.0, top_p=0.95, uniform=0.99),
        Row(2.0, 40, 0.9, 0.01, uniform=0.97),
        ROWS[12],
    ]
    logits = draw_logits(len(rows), 90, seed=3)
    assert_judged(sample(logits, rows), logits, rows)


def test_logits_of_the_models_type() -> None:
    logits = draw_logits(5, 60).half()
    ids, values = torch.tensor([3], device=DEVICE), torch.full((1,), 1.7, device=DEVICE)
    penalties = Penalties(ids, values, values, values, torch.arange(60, device=DEVICE), torch.arange(30, device=DEVICE))
    for bears in (None, penalties):
        assert sample(logits, ROWS[8:13], bears) == sample(logits.float(), ROWS[8:13], bears)


@pytest.mark.parametrize("num_candidates", [2, 4096])
def test_ties_are_kept_in_the_order_of_ids(num_candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal logits in all splits, and every kind of cut through them."""
    monkeypatch.setattr(kernel, "_CANDIDATES", num_candidates)
    monkeypatch.setattr(kernel, "_SPLIT", 4)
    logits = torch.tensor([3.0, 1.0, 3.0, 1.0, 1.0, -torch.inf, 1.0, 2.0, 1.0]).to(DEVICE)
    cuts = [
        Row(top_k=5),
        Row(top_p=0.85),
        Row(top_k=6, top_p=0.9),
        Row(top_k=4, top_p=0.99, min_p=0.13),
        Row(min_p=0.5),
    ]
    rows = [
        replace(cut, uniform=uniform)
        for cut in cuts
        for uniform in ((0.0, 0.93, 0.999) if num_candidates > 2 else (0.93,))
    ]
    repeated = logits.expand(len(rows), -1).contiguous()
    assert sample(repeated, rows) == [judged(logits.cpu(), row) for row in rows]


def test_greedy_takes_the_lowest_of_equal_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_SPLIT", 16)
    logits = torch.zeros(3, 60, device=DEVICE)
    logits[0, [7, 20, 41]] = 5.0
    logits[1, [59, 40]] = 5.0
    assert sample(logits, [Row(0.0)] * 3) == [7, 40, 0]


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = draw_logits(len(ROWS), 60, seed=2)
    together = sample(logits, ROWS)
    assert sample(logits, ROWS) == together
    assert sample(logits.flip(0), ROWS[::-1]) == together[::-1]
    for index in (1, 6, 8, 12):
        assert sample(logits[index : index + 1], [ROWS[index]]) == together[index : index + 1]


def test_draws_follow_the_distribution() -> None:
    """Uniforms in equal steps give every token its share, to within one draw."""
    num_draws = 50
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0], device=DEVICE)
    rows = [Row(uniform=(step + 0.5) / num_draws) for step in range(num_draws)]
    tokens = sample(logits.expand(num_draws, -1).contiguous(), rows)
    for token, probability in enumerate(logits.softmax(0).tolist()):
        assert abs(tokens.count(token) - probability * num_draws) <= 1


@pytest.mark.parametrize("seed", range(2))
def test_penalties(seed: int) -> None:
    rng = random.Random(seed)
    vocab, rows = 50, [Row(0.0), Row(0.0), Row(0.8, top_k=9, uniform=0.8), Row(0.0), Row(uniform=0.4)]
    logits = draw_logits(len(rows), vocab, seed)
    penalised = [3, 0, 2]
    parameters = [(1.9, 0.5, 0.3), (0.4, -1.0, 1.0), (1e-45, 2.0, -0.3)]
    prompts = [[rng.randrange(vocab) for _ in range(n)] for n in (9, 1, 30)]
    outputs = [[rng.randrange(vocab) for _ in range(n)] for n in (0, 40, 12)]
    repetition, presence, frequency = (
        torch.tensor(column, dtype=torch.float32, device=DEVICE) for column in zip(*parameters, strict=True)
    )
    penalties = Penalties(
        torch.tensor(penalised, device=DEVICE),
        repetition,
        presence,
        frequency,
        torch.tensor([i * vocab + t for i in range(3) for t in prompts[i] + outputs[i]], device=DEVICE),
        torch.tensor([i * vocab + t for i in range(3) for t in outputs[i]], dtype=torch.int64, device=DEVICE),
    )
    expected = logits.cpu().double()
    limit = torch.finfo(torch.float32).max / 2
    for index, row in enumerate(penalised):
        values = reference_penalties(expected[row], prompts[index], outputs[index], *parameters[index])
        expected[row] = values.clamp(-limit, limit)
    assert_judged(sample(logits, rows, penalties), expected, rows)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    vocab=st.integers(1, 40),
    spread=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    rows=st.lists(
        st.builds(
            Row,
            temperature=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
            top_k=st.sampled_from([0, 0, 1, 3, 1000]),
            top_p=st.sampled_from([1.0, 1.0, 0.95, 0.3]),
            min_p=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
            uniform=st.floats(0, 1, exclude_max=True),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_any_parameters(seed: int, vocab: int, spread: float, rows: list[Row]) -> None:
    logits = draw_logits(len(rows), vocab, seed) * spread
    assert_judged(sample(logits, rows), logits, rows)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU; the interpreter refuses rows of NaN")
@pytest.mark.parametrize("vocab", [1000, 32000, 128256])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_row_without_a_distribution_has_no_token_and_harms_no_other(vocab: int, value: float, is_whole: bool) -> None:
    logits = draw_logits(2 * len(ROWS), vocab)
    if is_whole:
        logits[: len(ROWS)] = value
    else:
        logits[range(len(ROWS)), [place * 7919 % vocab for place in range(len(ROWS))]] = value
    tokens = sample(logits, ROWS * 2)
    assert tokens[: len(ROWS)] == [-1] * len(ROWS)
    assert_judged(tokens[len(ROWS) :], logits[len(ROWS) :], ROWS)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("vocab", [32000, 128256, 151936])
def test_large_vocabularies(vocab: int) -> None:
    logits = draw_logits(len(ROWS), vocab)
    assert_judged(sample(logits, ROWS), logits, ROWS)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("num_rows", [64, 133, 512])
def test_many_rows_are_as_the_reference_has_them(num_rows: int) -> None:
    rng = random.Random(num_rows)
    rows = [replace(rng.choice(ROWS), uniform=rng.random()) for _ in range(num_rows)]
    logits = draw_logits(num_rows, 4000, seed=num_rows)
    assert_judged(sample(logits, rows), logits, rows)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_a_graph_sees_new_logits_and_parameters() -> None:
    logits, choices = draw_logits(len(ROWS), 32000), choices_of(ROWS)
    uniforms = torch.rand(len(ROWS), dtype=torch.float64, device=DEVICE)
    kernel.sample(logits, choices, uniforms)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = kernel.sample(logits, choices, uniforms)
    for seed in range(3):
        rows = [replace(row, uniform=random.Random(seed).random()) for row in ROWS[seed:] + ROWS[:seed]]
        fresh = choices_of(rows)
        logits.copy_(draw_logits(len(rows), 32000, seed))
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(choices, name).copy_(getattr(fresh, name))
        uniforms.copy_(torch.tensor([row.uniform for row in rows]))
        graph.replay()
        assert tokens.tolist() == sample(logits, rows)


def test_the_reference_is_judged_alike() -> None:
    logits = draw_logits(len(ROWS), 133)
    uniforms = torch.tensor([row.uniform for row in ROWS], dtype=torch.float64)
    choices = choices_of(ROWS)
    on_host = Choices(
        **{
            name: value.cpu() if isinstance(value, Tensor) else value
            for name, value in ((field, getattr(choices, field)) for field in choices.__dataclass_fields__)
        }
    )
    assert_judged(reference.sample(logits.cpu(), on_host, uniforms).tolist(), logits, ROWS)


@pytest.mark.parametrize(
    "name", ["logits", "temperature", "top_k", "top_p", "min_p", "uniforms", "rows", "repetition", "seen"]
)
def test_a_bad_argument_is_named(name: str) -> None:
    logits, choices = torch.zeros(3, 8, device=DEVICE), choices_of([Row(), Row(), Row()])
    uniforms = torch.zeros(3, dtype=torch.float64, device=DEVICE)
    ids, values = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.ones(1, device=DEVICE)
    penalties = Penalties(ids, values, values, values, ids, ids)
    bad: dict[str, list[Tensor | None]] = {
        "logits": [logits[0], logits.int(), logits.t(), logits[:, :0], torch.zeros(1, 2**18 + 1, device=DEVICE)],
        "uniforms": [None, uniforms[:2], uniforms.float()],
        "rows": [ids[:0], ids.int(), torch.zeros(4, dtype=torch.int64, device=DEVICE)],
        "repetition": [values[:0], values.double()],
        "seen": [ids.int(), ids[:, None]],
    }
    for value in bad.get(name, [torch.zeros(2, device=DEVICE), torch.zeros(3, device=DEVICE).half()]):
        with pytest.raises(ValueError, match=name):
            kernel.sample(
                value if name == "logits" else logits,
                replace(choices, **{name: value}) if hasattr(choices, name) else choices,
                value if name == "uniforms" else uniforms,
                replace(penalties, **{name: value}) if hasattr(penalties, name) else None,
            )
