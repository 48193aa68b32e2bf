"""What the documents say to type can be typed, and what they point at is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from multitude.cli import root

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md")
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)\)")
# What stands for a reader's own folder or file.
STAND_INS = {
    "/models/other-adapter": ROOT / "examples/demo_model/adapters/add",
    "/adapters/reverse": ROOT / "examples/demo_model/adapters/reverse",
    "MODEL": ROOT / "examples/demo_model/base",
    "TRACE": ROOT / "benchmarks/workloads/saturate-1000.jsonl",
    "FILE": ROOT / "deploy/policies/default.yaml",
}


def _code(document: str) -> list[str]:
    """Every line of code, in blocks and between backticks."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [line for block, span in CODE.findall(text) for line in (block or span).splitlines()]


def _commands(document: str) -> list[str]:
    """What is given to the `multitude` command, here or in the client's container, one command line each."""
    starts = re.compile(r"(?:(?<!from )\bmultitude|docker compose run --rm client) +(-[^\n]+|[a-z]+\b[^\n]*)")
    found = [match[1] for line in _code(document) if (match := starts.search(line))]
    return [line.replace("…", "").partition(')"')[0] for line in found]


def _parse(command: click.Command, words: list[str]) -> None:
    """Parses a command line to its end, and runs nothing. Raises click.ClickException."""
    context = command.make_context(command.name, words)
    if isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        _, child, words = command.resolve_command(context, rest)
        assert child is not None
        _parse(child, words)


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
    named = {target for line in _code(document) for target in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", line)}
    assert {word for words in named for word in words.split()} <= _targets()


def test_the_readme_names_targets():
    assert {"demo", "test"} <= {word for line in _code("README.md") for word in line.split()} & _targets()


@pytest.mark.parametrize("line", [line for document in DOCUMENTS for line in _commands(document)])
def test_commands_parse(line):
    _parse(root, [str(STAND_INS.get(word, word)) for word in shlex.split(line, comments=True)])


def test_enough_commands_are_found_and_wrong_ones_fail():
    assert len(_commands("README.md")) >= 8
    with pytest.raises(click.UsageError):
        _parse(root, ["generate", "Hello", "--adaptor", "x"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    links = [link for link in LINK.findall((ROOT / document).read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document):
    """A path from the root must be there; a file's name alone, or with the end of its folder's, must be somewhere."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    names = ["/" + path.relative_to(ROOT).as_posix() for path in files]
    missing = []
    for span in _code(document):
        if not re.fullmatch(r"[\w./-]+", span) or span.startswith("/"):
            continue
        if span.split("/")[0] in folders and "/" in span:
            is_there = (ROOT / span).exists()
        else:
            is_name = span.endswith((".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".proto"))
            is_there = not is_name or any(name.endswith("/" + span) for name in names)
        if not is_there:
            missing.append(span)
    assert missing == []
