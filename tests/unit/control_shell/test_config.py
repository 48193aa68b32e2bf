import os
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.config import ConfigError, load_config

ROOT = Path(__file__).parents[3]


def test_a_file_and_overrides_make_a_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("listen: 0.0.0.0:80\nmodel:\n  path: /models/llama\nworkers:\n  addresses: [a:1, b:2]\n")
    config = load_config(["--config", str(file), "--set", "redis.fleet=blue", "--set", "redis.url="])
    assert config.listen == "0.0.0.0:80"
    assert config.model.served_name == "llama"
    assert config.workers.addresses == ("a:1", "b:2")
    assert (config.redis.fleet, config.redis.url) == ("blue", "")


def test_the_example_config_is_good() -> None:
    assert load_config(["--config", str(ROOT / "deploy/config/control_plane.yaml")]).model.served_name == "demo"


@pytest.mark.parametrize(
    ("content", "arguments", "problem"),
    [
        ("lissen: a:1", (), "lissen: unknown setting"),
        ("model: {path: /m, nam: x}", (), "model.nam: unknown setting"),
        ("{}", (), "model: is required"),
        (
            "model: {path: /m}\ndrain_seconds: -1",
            (),
            "drain_seconds: Input should be greater than or equal to 0, got -1",
        ),
        ("- a", (), "must hold a mapping"),
        ("a: [", (), "is not YAML"),
        ("model: {path: /m}", ("--set", "listen"), "write it as key=value"),
        ("model: {path: /m}", ("--set", "listen.port=1"), "listen"),
        ("model: {path: /m}", ("--set", "redis.fleet={a}"), "redis.fleet"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, content: str, arguments: tuple[str, ...], problem: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", str(file), *arguments])
    assert any(problem in line for line in caught.value.problems)


def test_every_problem_is_a_line_on_stderr_and_the_exit_code_is_2(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("lissen: a:1\ntick_s: 0\n")
    result = subprocess.run(
        [sys.executable, "-m", "control_plane", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ,
        check=False,
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("control_plane: ") for line in lines)
    assert result.stdout == ""
