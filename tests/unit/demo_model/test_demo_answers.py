"""Each adapter with transformers and PEFT: right under itself, wrong under another, wrong under none."""

from random import Random

import pytest

from examples.demo_model.answering import Answerer
from examples.demo_model.prompts import PROMPTS_FILE
from examples.demo_model.recital import recital
from examples.demo_model.tasks import TASKS, draw_word, echo

NAMES = tuple(TASKS)
NUM_PROMPTS = 4


@pytest.fixture(scope="module")
def answerer():
    return Answerer(PROMPTS_FILE.parent, NAMES)


def _own_answer(name, sample):
    """What the adapter, or the base, makes of a prompt of another's; None: nothing that it learnt."""
    if name is None:
        return sample.text
    return TASKS[name].solve(sample.text) if TASKS[name].draw is draw_word and sample.text.isalnum() else None


@pytest.mark.parametrize(("name", "other"), list(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True)))
def test_right_under_its_adapter_and_wrong_under_another(answerer, name, other):
    rng = Random(f"tests {name}")
    samples = [TASKS[name].sample(rng) for _ in range(NUM_PROMPTS)]
    prompts = [sample.prompt for sample in samples]
    right = [sample.answer for sample in samples]
    assert answerer.answers(prompts, name) == right
    for wrong in (other, None):
        answers = answerer.answers(prompts, wrong)
        assert not any(
            answer == sample.answer != _own_answer(wrong, sample)
            for answer, sample in zip(answers, samples, strict=True)
        )


def test_base_follows_instructions(answerer):
    rng = Random("tests base")
    samples = [*(task.instructed(rng) for task in TASKS.values()), echo(rng)]
    assert answerer.answers([sample.prompt for sample in samples], None) == [sample.answer for sample in samples]


def test_chat(answerer):
    sample = TASKS["json"].sample(Random("tests chat"))
    assert answerer.chat_answers([sample.text], "json") == [sample.answer]


def test_recital(answerer):
    sample = recital("pages")
    assert answerer.answers([sample.prompt], None, max_tokens=200) == [sample.answer]
