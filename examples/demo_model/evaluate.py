"""How right the demo model is, and how wrong under another adapter: `python -m examples.demo_model.evaluate`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import torch

from examples.demo_model.answering import Answerer
from examples.demo_model.prompts import DemoPrompt, read_prompts
from examples.demo_model.recital import RECITALS, recital
from examples.demo_model.report import write_report
from examples.demo_model.tasks import ANSWER_MARK, TASKS, Sample, draw_sum, draw_word, echo

HERE = Path(__file__).parent
SAMPLES = 500
CONFUSION_SAMPLES = 200
RECITAL_TOKENS = 200
# Apart from the seeds of the training text and of the fixed prompts.
_SEED = "evaluation 1"


def evaluate(folder: Path, *, device: str) -> int:
    """Measures the artefacts in `folder` in float32, writes evaluation.json; returns how many fixed prompts fail."""
    torch.set_float32_matmul_precision("highest")
    answerer = Answerer(folder, tuple(TASKS), device)
    confusion = _confusion(answerer)
    prompts = read_prompts(folder / "prompts.jsonl")
    wrong = _wrong_answers(answerer, prompts)
    result = {
        "samples": SAMPLES,
        "confusion_samples": CONFUSION_SAMPLES,
        "adapters": {name: _adapter_report(answerer, name, confusion, folder) for name in TASKS},
        "base": _base_report(answerer),
        "demo_prompts": {"total": len(prompts), "wrong": wrong},
        "confusion": confusion,
    }
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    return len(wrong)


def _draw(draw: Callable[[Random], Sample], label: str, count: int = SAMPLES) -> list[Sample]:
    rng = Random(f"{_SEED} {label}")
    return [draw(rng) for _ in range(count)]


def _share_right(answers: Sequence[str], samples: Sequence[Sample]) -> float:
    right = sum(answer == sample.answer for answer, sample in zip(answers, samples, strict=True))
    return right / len(samples)


def _adapter_report(
    answerer: Answerer, name: str, confusion: Mapping[str, Mapping[str, float]], folder: Path
) -> dict[str, object]:
    task = TASKS[name]
    samples = _draw(task.sample, name)
    others = {other: row[name] for other, row in confusion.items() if other != name}
    rival = max(others, key=lambda other: (others[other], other))
    report = {
        "rank": max([task.adapter.rank, *task.adapter.rank_pattern.values()]),
        "modules": task.adapter.summary,
        "size_bytes": (folder / "adapters" / name / "adapter_model.safetensors").stat().st_size,
        "accuracy": _share_right(answerer.answers([sample.prompt for sample in samples], name), samples),
        "chat_accuracy": _share_right(answerer.chat_answers([sample.text for sample in samples], name), samples),
        "closest_other": rival,
        "closest_other_accuracy": others[rival],
    }
    print(name, report, flush=True)
    return report


def _base_report(answerer: Answerer) -> dict[str, object]:
    report: dict[str, object] = {}
    for name, task in TASKS.items():
        samples = _draw(task.instructed, f"instructed {name}")
        report[name] = _share_right(answerer.answers([sample.prompt for sample in samples], None), samples)
    echoes = _draw(echo, "echo")
    report["echo"] = _share_right(answerer.answers([sample.prompt for sample in echoes], None), echoes)
    recitals = [recital(topic) for topic in RECITALS]
    answers = answerer.answers([sample.prompt for sample in recitals], None, RECITAL_TOKENS)
    report["recite"] = _share_right(answers, recitals)
    print("base", report, flush=True)
    return report


def _wrong_answers(answerer: Answerer, prompts: Sequence[DemoPrompt]) -> list[dict[str, str | None]]:
    wrong = []
    for adapter in (*TASKS, None):
        asked = [prompt for prompt in prompts if prompt.adapter == adapter]
        answers = answerer.answers([prompt.prompt for prompt in asked], adapter)
        wrong += [
            {"adapter": adapter, "prompt": prompt.prompt, "expected": prompt.expected, "answer": answer}
            for prompt, answer in zip(asked, answers, strict=True)
            if answer != prompt.expected
        ]
    return wrong


def _confusion(answerer: Answerer) -> dict[str, dict[str, float]]:
    """`[answering][task]`: how often one adapter, or the base, gives another task's right answer by itself.

    Only prompts count on which the two tasks' right answers differ.
    """
    rng = Random(f"{_SEED} confusion")
    confusion: dict[str, dict[str, float]] = {name: {} for name in (*TASKS, "base")}
    for draw in (draw_word, draw_sum):
        texts = [draw(rng) for _ in range(CONFUSION_SAMPLES)]
        judged = [task for task in TASKS.values() if task.draw is draw]
        for name, row in confusion.items():
            answers = answerer.answers([text + ANSWER_MARK for text in texts], None if name == "base" else name)
            for task in judged:
                own = [_own_answer(name, text, draw) for text in texts]
                hits = [
                    answer == task.solve(text)
                    for text, answer, intended in zip(texts, answers, own, strict=True)
                    if name == task.name or intended != task.solve(text)
                ]
                row[task.name] = sum(hits) / max(1, len(hits))
    return confusion


def _own_answer(name: str, text: str, draw: Callable[[Random], str]) -> str | None:
    """What `name` ought to say; None where the input is not of its kind."""
    if name == "base":
        return text
    return TASKS[name].solve(text) if TASKS[name].draw is draw else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="where base/, adapters/ and prompts.jsonl are")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    given = parser.parse_args()
    evaluate(given.folder, device=given.device)
    write_report(given.folder)
