"""What is true of the whole tree."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("multitude", "control_plane", "worker", "kernels", "adapter_store", "examples", "benchmarks")


def _sources():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "v1" not in path.parts:
                yield path


def test_no_folder_is_named_for_nothing():
    banned = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [path for path in _sources() if banned & set(path.relative_to(ROOT).with_suffix("").parts)]


def test_environment_is_read_in_config_alone():
    readers = []
    for path in _sources():
        if path.name == "config.py" or "multitude/cli" in path.as_posix():
            continue
        readers += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
        ]
    assert not readers


def test_no_sleep_in_tests():
    sleepers = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_sleep = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"
            if is_sleep and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0):
                sleepers.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not sleepers
