"""The accuracy table of README.md, made from evaluation.json."""

import json
from pathlib import Path
from typing import Any

BEGIN_MARK = "<!-- accuracy: written by python -m examples.demo_model.evaluate -->"
END_MARK = "<!-- end of accuracy -->"


def accuracy_section(evaluation: dict[str, Any]) -> str:
    """The tables and totals in Markdown."""
    lines = [
        "| adapter | rank | modules | KB | right | right in chat | base with instruction | closest other | its share |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, row in evaluation["adapters"].items():
        cells = [
            name,
            row["rank"],
            row["modules"],
            f"{row['size_bytes'] / 1000:.0f}",
            f"{row['accuracy']:.1%}",
            f"{row['chat_accuracy']:.1%}",
            f"{evaluation['base'][name]:.1%}",
            row["closest_other"] if row["closest_other_accuracy"] else "none",
            f"{row['closest_other_accuracy']:.1%}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    base, demo = evaluation["base"], evaluation["demo_prompts"]
    right = demo["total"] - len(demo["wrong"])
    lines += [
        "",
        f"Each share of right answers is over {evaluation['samples']} fresh prompts. *Closest other* is the adapter",
        "(or the bare base) that most often gives this task's right answer where its own differs, over",
        f"{evaluation['confusion_samples']} prompts; `evaluation.json` has the whole matrix. The base alone repeats",
        f"{base['echo']:.1%} of bare inputs and recites {base['recite']:.0%} of its texts.",
        f"Of the {demo['total']} fixed prompts in `prompts.jsonl`, {right} are answered right.",
    ]
    return "\n".join(lines)


def write_report(folder: Path) -> None:
    """Replaces the section between the marks in README.md; a folder without a README stays without one."""
    readme = folder / "README.md"
    if not readme.exists():
        return
    before, rest = readme.read_text().split(BEGIN_MARK)
    _, after = rest.split(END_MARK)
    section = accuracy_section(json.loads((folder / "evaluation.json").read_text()))
    readme.write_text(f"{before}{BEGIN_MARK}\n\n{section}\n\n{END_MARK}{after}")
