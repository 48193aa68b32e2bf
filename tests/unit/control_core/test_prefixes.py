from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import prefixes as prefixes_module
from control_plane.core.prefixes import PrefixMemory
from control_plane.core.types import Request
from tests.unit.control_core.makers import request

# Prompts that share beginnings of different lengths.
PROMPTS = st.builds(
    lambda shared, own, tail: (0,) * shared + (own,) * tail,
    st.sampled_from([0, 10, 32, 64, 100, 128, 200]),
    st.integers(1, 2),
    st.integers(1, 80),
)
REQUESTS = st.builds(
    lambda prompt, name: replace(request(name=name), prompt_token_ids=prompt), PROMPTS, st.sampled_from([None, "a"])
)
STEPS = st.lists(st.tuples(REQUESTS, st.integers(0, 5)) | st.integers(0, 5), max_size=30)


class Judge:
    """The same with whole prompts for keys, and every length compared anew."""

    def __init__(self) -> None:
        self.lives = dict.fromkeys(range(6), 0)
        self.workers_of: dict[object, list[tuple[int, int]]] = {}

    def note(self, noted: Request, row: int) -> None:
        for key in self.keys(noted):
            others = [each for each in self.workers_of.get(key, []) if each[0] != row and self.is_there(*each)]
            self.workers_of[key] = [(row, self.lives[row]), *others][:4]

    def share(self, asked: Request, row: int) -> float:
        there = [key for key in self.keys(asked) if (row, self.lives[row]) in self.workers_of.get(key, [])]
        return max((len(prompt) for _, prompt in there), default=0) / len(asked.prompt_token_ids)

    def is_there(self, row: int, life: int) -> bool:
        return self.lives[row] == life

    @staticmethod
    def keys(asked: Request) -> list[tuple[object, tuple[int, ...]]]:
        tokens = asked.prompt_token_ids
        return [(asked.adapter, tokens[:length]) for length in (32, 64, 128, 256) if length <= len(tokens)]


@given(STEPS, REQUESTS)
def test_shares_are_those_that_the_judge_finds(steps: list[tuple[Request, int] | int], asked: Request) -> None:
    memory, judge = PrefixMemory(), Judge()
    for row in range(6):
        memory.attach(row)
    for step in steps:
        if isinstance(step, int):
            # Another worker gets the row.
            memory.detach(step)
            memory.attach(step)
            judge.lives[step] += 1
        else:
            memory.note(*step)
            judge.note(*step)
    assert memory.shares(asked, 6).tolist() == [judge.share(asked, row) for row in range(6)]


def test_a_prompt_that_goes_on_finds_what_went_before() -> None:
    memory = PrefixMemory()
    memory.attach(0)
    memory.attach(1)
    memory.note(request(num_prompt_tokens=100), 1)
    assert memory.shares(request(num_prompt_tokens=128), 2).tolist() == [0.0, 0.5]
    assert memory.shares(request(num_prompt_tokens=64), 2).tolist() == [0.0, 1.0]
    assert memory.shares(request(num_prompt_tokens=31), 2).tolist() == [0.0, 0.0]
    assert memory.shares(request(name="a", num_prompt_tokens=128), 2).tolist() == [0.0, 0.0]
    memory.detach(1)
    assert memory.shares(request(num_prompt_tokens=128), 2).tolist() == [0.0, 0.0]


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes_module, "_MAX_PREFIXES", 10)
    memory = PrefixMemory()
    for row in range(9):
        memory.attach(row)
    for index in range(50):
        memory.note(replace(request(), prompt_token_ids=(index,) * 40), 0)
    assert len(memory) == 10
    same = request(num_prompt_tokens=40)
    for row in range(9):
        memory.note(same, row)
    assert (memory.shares(same, 9) > 0).sum() == 4


def test_long_prompts_are_compared_up_to_a_bound() -> None:
    memory = PrefixMemory()
    memory.attach(0)
    memory.note(request(num_prompt_tokens=20_000), 0)
    assert memory.shares(request(num_prompt_tokens=20_000), 1)[0] == pytest.approx(4096 / 20_000)
