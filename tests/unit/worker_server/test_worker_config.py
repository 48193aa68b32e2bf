"""The configuration is strict, and says what to change."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.codec import lease_to_json, status_to_proto
from worker.config import load_config
from worker.engine.config import EngineConfig
from worker.errors import ConfigInvalidError
from worker.types import EngineStats, StepTimes, WorkerStatus

MODEL = ("--set", "model.path=/models/tiny")


def test_defaults_serve_a_model_under_its_folders_name() -> None:
    config = load_config(MODEL)
    assert config.model.served_name == "tiny"
    assert config.worker_id != load_config(MODEL).worker_id
    assert config.engine.build(2048, "cpu") == EngineConfig(context_length=2048)
    assert config.engine.build(2048, "cuda") == EngineConfig(
        context_length=2048,
        max_step_tokens=2048,
        max_running=512,
        max_graph_rows=2048,
        max_rank=256,
        overlap=True,
    )
    assert (config.window(64), config.window(512)) == (256, 1024)
    assert config.num_threads >= 1


def test_settings_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(
        "listen: 127.0.0.1:9\nmodel: {path: /m, name: base}\nengine: {max_running: 8, context_length: 64}\n"
    )
    config = load_config(["--config", str(file), "--set", "engine.max_running=4", "--set", "redis.url="])
    assert (config.listen, config.model.served_name, config.redis.url) == ("127.0.0.1:9", "base", "")
    engine = config.engine.build(2048, "cpu")
    assert (engine.max_running, engine.context_length) == (4, 64)


def test_labels_and_tenants_are_told_to_control_planes() -> None:
    config = load_config([*MODEL, "--set", "labels={zone: a}", "--set", "tenants=[t, u]"])
    status = WorkerStatus("w", "base", 1, 1, 16, labels=config.labels, tenants=config.tenants)
    told = status_to_proto(status).status
    assert (dict(told.labels), list(told.tenants)) == ({"zone": "a"}, ["t", "u"])
    lease = json.loads(lease_to_json(status, address="h:1", context_length=64, start_time_ms=1))
    assert (lease["labels"], lease["tenants"]) == ({"zone": "a"}, ["t", "u"])


def test_the_newest_step_is_told_to_control_planes() -> None:
    times = StepTimes(plan_ms=1.5, wait_ms=2.5)
    stats = EngineStats(
        num_sequences=3, num_rows=10, num_prefill_rows=8, num_resident_adapters=2, loaded_bytes=2**40, times=times
    )
    told = status_to_proto(WorkerStatus("w", "base", 1, 1, 16, stats=stats)).status
    assert (told.step.sequence_count, told.step.prefill_token_count, told.step.decode_token_count) == (3, 8, 2)
    assert (told.step.plan_ms, told.step.pack_ms, told.step.wait_ms) == (1.5, 0.0, 2.5)
    assert (told.resident_adapter_count, told.adapter_load_bytes) == (2, 2**40)


def test_a_context_beyond_the_models_is_not_served() -> None:
    assert load_config([*MODEL, "--set", "engine.context_length=4096"]).engine.build(2048, "cpu").context_length == 2048


@pytest.mark.parametrize(
    ("given", "found"),
    [("max_running=600", (2048, 600)), ("max_running=4096", (4096, 4096)), ("max_step_tokens=100", (100, 100))],
)
def test_a_bound_that_is_not_set_allows_the_other(given: str, found: tuple[int, int]) -> None:
    engine = load_config([*MODEL, "--set", f"engine.{given}"]).engine.build(2048, "cuda")
    assert (engine.max_step_tokens, engine.max_running) == found


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], ["model: is required"]),
        ([*MODEL, "--set", "modle.path=/x"], ["modle: unknown setting; remove it or mend its name"]),
        (
            [*MODEL, "--set", "engine.max_step_tokens=1", "--set", "engine.max_running=2", "--set", "threads=-1"],
            ["engine: Value error, max_step_tokens (1) must be at least max_running", "threads: Input should be"],
        ),
        ([*MODEL, "--set", "nonsense"], ["--set nonsense: write it as key=value"]),
        ([*MODEL, "--set", "listen=1", "--set", "listen.host=1"], ["listen.host: listen is a value, not a section"]),
        ([*MODEL, "--set", "listen=0.0.0.0:7002"], ["config: Value error, listen is 0.0.0.0:7002, every interface"]),
        (["--config", "/nowhere.yaml"], ["/nowhere.yaml: cannot be read"]),
    ],
)
def test_each_problem_is_one_line(arguments: list[str], lines: list[str]) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        load_config(arguments)
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert line.startswith(expected)


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config(MODEL).listen = "x:1"  # type: ignore[misc]


def test_the_example_file_is_valid() -> None:
    example = Path(__file__).parents[3] / "deploy" / "config" / "worker.yaml"
    assert load_config(["--config", str(example)]).model.served_name == "demo"
