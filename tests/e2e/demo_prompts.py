"""The demo model's fixed prompts, with their right answers."""

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[2] / "examples" / "demo_model" / "prompts.jsonl"


@dataclass(frozen=True)
class DemoPrompt:
    """A prompt, the adapter that it goes to ("" is the base model), and its right answer."""

    adapter: str
    prompt: str
    expected: str


def demo_prompts() -> list[DemoPrompt]:
    """All of them."""
    rows = map(json.loads, FILE.read_text(encoding="utf-8").splitlines())
    return [
        DemoPrompt(f"demo/{row['adapter']}" if row["adapter"] else "", row["prompt"], row["expected"]) for row in rows
    ]


def one_for_each_adapter() -> list[DemoPrompt]:
    """The first prompt of each adapter and of the base model."""
    return list({prompt.adapter: prompt for prompt in reversed(demo_prompts())}.values())
