"""The fixed prompts of the demo: the first that the seed gives, none left out but repetitions."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from examples.demo_model.tasks import TASKS, Sample, echo

PROMPTS_FILE = Path(__file__).parent / "prompts.jsonl"
PER_ADAPTER = 24
PER_INSTRUCTION = 2
_SEED = "demo prompts 1"


@dataclass(frozen=True, slots=True)
class DemoPrompt:
    """A prompt with the adapter that it goes to, None for the base model, and its right answer.

    `message` is what a chat turn says instead of `prompt`.
    """

    task: str
    adapter: str | None
    prompt: str
    message: str
    expected: str


def demo_prompts() -> Iterator[DemoPrompt]:
    """All fixed prompts: every adapter's, then the base model's."""
    rng = Random(_SEED)
    for task in TASKS.values():
        for sample in _distinct(task.sample, rng, PER_ADAPTER):
            yield DemoPrompt(task.name, task.name, sample.prompt, sample.text, sample.answer)
    for task in TASKS.values():
        for sample in _distinct(task.instructed, rng, PER_INSTRUCTION):
            yield DemoPrompt(task.name, None, sample.prompt, sample.text, sample.answer)
    for sample in _distinct(echo, rng, PER_INSTRUCTION):
        yield DemoPrompt("echo", None, sample.prompt, sample.text, sample.answer)


def _distinct(draw: Callable[[Random], Sample], rng: Random, count: int) -> list[Sample]:
    samples: dict[str, Sample] = {}
    while len(samples) < count:
        sample = draw(rng)
        samples.setdefault(sample.prompt, sample)
    return list(samples.values())


def write_prompts(path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(prompt)) + "\n" for prompt in demo_prompts()))


def read_prompts(path: Path = PROMPTS_FILE) -> list[DemoPrompt]:
    """The committed prompts, in order."""
    return [DemoPrompt(**json.loads(line)) for line in path.read_text().splitlines()]
