"""Policy files checked where no control plane runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.policy.__main__ import main

ROOT = Path(__file__).parents[3]
GOOD = "name: good\nscorers: [{name: load, weight: 1}]\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_good_doubtful_and_bad_files_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path, "good.yaml", GOOD)
    doubtful = written(
        tmp_path, "doubtful.yaml", GOOD + "fairness: {scheme: arrival, tenants: [{name: t, weight: 2}]}\n"
    )
    bad = written(tmp_path, "bad.yaml", GOOD.replace("load", "loda") + "colour: red\n")
    assert main(["check", str(good), str(doubtful)]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{good}: good", f"{doubtful}: good, with warnings"]
    assert told.err.startswith(f"warning: {doubtful}:3: fairness.tenants[0].weight: has no effect")
    assert main(["check", str(bad), str(good)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{bad}:2: scorers[0].name: `loda` is not known")
    assert lines[1].startswith(f"{bad}:3: colour: unknown key")
    assert lines[2] == f"{good}: good"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = tmp_path / "policy.yaml"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().out.startswith(f"{path}: cannot be read: ")


def test_it_is_a_command_and_every_deployed_policy_is_good() -> None:
    files = sorted(map(str, (ROOT / "deploy" / "policies").glob("*.yaml")))
    command = [sys.executable, "-m", "control_plane.policy", "check", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": good") == len(files) > 2
