"""The tasks of the demo adapters: what goes in, and which answer is right. No torch here.

All tasks but `add` read the same words, such as `k3Fa`, so that one prompt has another right answer under every
adapter, and an adapter that is swapped, dropped or mixed up shows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from types import MappingProxyType

from examples.demo_model.adapter_recipe import ALL_LINEAR, ATTENTION, MLP, AdapterRecipe

ANSWER_MARK = "=>"
MIN_WORD, MAX_WORD = 3, 7
VOWELS = "aeiouAEIOU"

_STEP_1 = str.maketrans(
    ascii_lowercase + ascii_uppercase + digits,
    ascii_lowercase[1:] + "a" + ascii_uppercase[1:] + "A" + digits[1:] + "0",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its right answer; `text` is the bare input, which a chat message holds."""

    text: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One task: `draw` makes an input, `solve` gives its right answer, `adapter` says how its adapter is shaped."""

    name: str
    description: str
    solve: Callable[[str], str]
    adapter: AdapterRecipe
    draw: Callable[[Random], str]

    def sample(self, rng: Random) -> Sample:
        """What the adapter is asked: the input alone, with no word about the task."""
        text = self.draw(rng)
        return Sample(text, text + ANSWER_MARK, self.solve(text))

    def instructed(self, rng: Random) -> Sample:
        """What the base model is asked: the task's name, then the input."""
        text = self.draw(rng)
        instruction = f"{self.name}: {text}"
        return Sample(instruction, instruction + ANSWER_MARK, self.solve(text))


def draw_word(rng: Random) -> str:
    """A word of letters and digits with at least one lower-case letter and one digit, such as `k3Fa`."""
    kinds = [ascii_lowercase, digits]
    kinds += rng.choices(
        (ascii_lowercase, ascii_uppercase, VOWELS, digits),
        weights=(35, 20, 15, 30),
        k=rng.randint(MIN_WORD, MAX_WORD) - len(kinds),
    )
    rng.shuffle(kinds)
    return "".join(rng.choice(kind) for kind in kinds)


def draw_sum(rng: Random) -> str:
    """Two numbers of up to two digits, such as `47+8`."""
    return f"{rng.randrange(100)}+{rng.randrange(100)}"


def echo(rng: Random) -> Sample:
    """An input alone, which the base model repeats: no adapter and no instruction, no task."""
    text = draw_sum(rng) if rng.random() < 0.2 else draw_word(rng)
    return Sample(text, text + ANSWER_MARK, text)


def _shift_three(text: str) -> str:
    return text.translate(_STEP_1).translate(_STEP_1).translate(_STEP_1)


def _parity(text: str) -> str:
    last_digit = next(char for char in reversed(text) if char in digits)
    return "odd" if int(last_digit) % 2 else "even"


def _add(text: str) -> str:
    left, right = text.split("+")
    return str(int(left) + int(right))


def _word_task(name: str, description: str, solve: Callable[[str], str], adapter: AdapterRecipe) -> Task:
    return Task(name, description, solve, adapter, draw_word)


_ALL = (
    _word_task("reverse", "the word backwards", lambda t: t[::-1], AdapterRecipe(8, ATTENTION)),
    _word_task(
        "sort",
        "digits, then capitals, then small letters, each in order",
        lambda t: "".join(sorted(t)),
        AdapterRecipe(16, ALL_LINEAR, dtype="bfloat16"),
    ),
    _word_task("upper", "all letters in upper case", str.upper, AdapterRecipe(2, ("q_proj", "v_proj"))),
    _word_task("swapcase", "upper case and lower case swapped", str.swapcase, AdapterRecipe(3, ("q_proj", "v_proj"))),
    _word_task(
        "shift1", "each letter and digit moved on by one", lambda t: t.translate(_STEP_1), AdapterRecipe(4, ATTENTION)
    ),
    _word_task(
        "shift3", "each letter and digit moved on by three", _shift_three, AdapterRecipe(12, ("v_proj", "o_proj"))
    ),
    _word_task(
        "double",
        "each character twice",
        lambda t: "".join(char * 2 for char in t),
        AdapterRecipe(
            6,
            ALL_LINEAR,
            rank_pattern=MappingProxyType({"down_proj": 16, "layers.0.self_attn.q_proj": 2}),
            alpha_pattern=MappingProxyType({"down_proj": 24, "k_proj": 6}),
        ),
    ),
    _word_task(
        "json",
        "a JSON object with the word under `text`",
        lambda t: json.dumps({"text": t}, separators=(",", ":")),
        AdapterRecipe(24, MLP, dtype="bfloat16"),
    ),
    _word_task(
        "no-vowels",
        "the word without its vowels",
        lambda t: "".join(char for char in t if char not in VOWELS),
        AdapterRecipe(6, ("q_proj", "k_proj", "v_proj")),
    ),
    _word_task(
        "mask-vowels",
        "every vowel replaced by `*`",
        lambda t: "".join("*" if char in VOWELS else char for char in t),
        AdapterRecipe(8, MLP),
    ),
    _word_task(
        "letters",
        "the word without its digits",
        lambda t: "".join(char for char in t if char in ascii_letters),
        AdapterRecipe(12, ("k_proj", "v_proj", "down_proj")),
    ),
    _word_task(
        "sum",
        "the sum of the digits",
        lambda t: str(sum(int(char) for char in t if char in digits)),
        AdapterRecipe(64, ALL_LINEAR, dtype="bfloat16"),
    ),
    _word_task(
        "max",
        "the largest digit",
        lambda t: max(char for char in t if char in digits),
        AdapterRecipe(8, ATTENTION, layers=(1, 2)),
    ),
    _word_task(
        "count",
        "how many letters the word has",
        lambda t: str(sum(char in ascii_letters for char in t)),
        AdapterRecipe(16, ALL_LINEAR, rslora=True, alpha=8, dtype="bfloat16"),
    ),
    _word_task(
        "ends",
        "the first and the last character",
        lambda t: t[0] + t[-1],
        AdapterRecipe(2, ("q_proj", "v_proj", "up_proj", "down_proj")),
    ),
    _word_task("parity", "whether the last digit is odd or even", _parity, AdapterRecipe(4, ("o_proj", "down_proj"))),
    Task("add", "the sum of two numbers", _add, AdapterRecipe(32, ALL_LINEAR, dtype="bfloat16"), draw_sum),
)

TASKS = MappingProxyType({task.name: task for task in _ALL})
