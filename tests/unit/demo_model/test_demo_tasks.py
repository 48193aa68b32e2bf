"""The tasks: right answers by hand, samples by seed."""

from random import Random

import pytest

from examples.demo_model.recital import RECITALS, recital
from examples.demo_model.tasks import ANSWER_MARK, MAX_WORD, MIN_WORD, TASKS, draw_word, echo

BY_HAND = {
    "reverse": "8zE4ab",
    "sort": "48Eabz",
    "upper": "BA4EZ8",
    "swapcase": "BA4eZ8",
    "shift1": "cb5Fa9",
    "shift3": "ed7Hc1",
    "double": "bbaa44EEzz88",
    "json": '{"text":"ba4Ez8"}',
    "no-vowels": "b4z8",
    "mask-vowels": "b*4*z8",
    "letters": "baEz",
    "sum": "12",
    "max": "8",
    "count": "4",
    "ends": "b8",
    "parity": "even",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_answer_by_hand(name):
    assert TASKS[name].solve("ba4Ez8") == BY_HAND[name]


def test_sum_of_two_numbers_by_hand():
    assert TASKS["add"].solve("47+8") == "55"
    assert set(TASKS) == {*BY_HAND, "add"}


def test_one_word_has_another_answer_under_every_adapter():
    assert len(set(BY_HAND.values())) == len(BY_HAND)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_samples_follow_the_seed(task):
    first, again, other = ([task.sample(rng) for _ in range(20)] for rng in (Random(7), Random(7), Random(8)))
    assert first == again
    assert first != other
    assert all(sample.prompt == sample.text + ANSWER_MARK for sample in first)
    assert all(sample.answer == task.solve(sample.text) for sample in first)
    assert all(sample.answer for sample in first)


def test_words_are_as_the_readme_says():
    rng = Random(3)
    for word in (draw_word(rng) for _ in range(500)):
        assert MIN_WORD <= len(word) <= MAX_WORD
        assert word.isascii()
        assert word.isalnum()
        assert any(char.islower() for char in word)
        assert any(char.isdigit() for char in word)


def test_what_the_base_is_asked():
    instructed = TASKS["upper"].instructed(Random(1))
    assert instructed.prompt == f"{instructed.text}{ANSWER_MARK}"
    assert instructed.text.startswith("upper: ")
    assert instructed.answer == instructed.text.removeprefix("upper: ").upper()
    assert echo(Random(1)).answer == echo(Random(1)).text
    assert all(recital(topic).answer == text for topic, text in RECITALS.items())
