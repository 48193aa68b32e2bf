"""Configuration is strict; errors have one reason and one status each."""

import json
import re
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc import StatusCode

from adapter_store import errors
from adapter_store.base_model import load_base_model
from adapter_store.config import Config, Limits, ModelConfig, load_config
from adapter_store.edge import status_of
from adapter_store.errors import ConfigInvalid, StoreError, TooManyUploads
from tests.unit.adapter_store.peft_directories import HF_CONFIG, MODEL, write_base_model

EXAMPLE = Path(__file__).parents[3] / "deploy" / "config" / "adapter_store.yaml"


def test_example_shows_every_key_with_its_default() -> None:
    config = load_config(["--config", str(EXAMPLE)])
    assert config == Config(data_dir=Path("/var/lib/multitude/adapters"), model=ModelConfig(path=Path("/models/base")))
    text = EXAMPLE.read_text()
    for key in [*Config.model_fields, *Limits.model_fields, *ModelConfig.model_fields]:
        assert re.search(rf"^ *(# )?{key}:", text, re.MULTILINE), key


def test_single_keys_are_overridden(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data_dir: /a\nmodel: {path: /models/demo/}\n")
    config = load_config(
        ["--config", str(path), "--set", "limits.max_rank=7", "--set", "import_roots=[/x]", "--set", "listen='[::1]:0'"]
    )
    assert config.limits == Limits(max_rank=7)
    assert config.import_roots == (Path("/x"),)
    assert config.model.name == "demo"
    assert load_config(["--config", str(path), "--set", "model.name=org/demo"]).model.name == "org/demo"


@pytest.mark.parametrize(
    ("content", "overrides", "lines"),
    [
        ("", [], ["data_dir: is not set", "model: is not set"]),
        ("data_dir: a\nmodel: {path: b}\nlimit: {}\n", [], ["limit: is not a key"]),
        ("data_dir: a\nmodel: {path: b, nam: c}\n", [], ["model.nam: is not a key"]),
        ("data_dir: a\nmodel: {path: b}\nlimits: {max_rank: 0}\n", [], ["limits.max_rank: "]),
        ("data_dir: a\nmodel: {path: b}\nlisten: nowhere\n", [], ["listen: "]),
        ("data_dir: a\nmodel: {path: b}\n", ["io_threads=many"], ["io_threads: "]),
        ("- a\n", [], ["keys and values"]),
        ("a: [\n", [], ["is not YAML"]),
        ("", ["data_dir"], ["KEY=VALUE"]),
        ("", [".a=1"], ["KEY=VALUE"]),
        ("", ["a=["], ["quote it"]),
        ("data_dir: a\n", ["data_dir.b=1"], ["not a section"]),
    ],
)
def test_every_problem_is_one_line(content: str, overrides: list[str], lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(["--config", str(path), *(word for override in overrides for word in ("--set", override))])
    found = caught.value.message.splitlines()
    assert len(found) == len(lines)
    assert all(line in problem for line, problem in zip(lines, found, strict=True))


def test_file_that_is_not_there() -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_config(["--config", "/nowhere/config.yaml"])


def test_base_model_is_read_from_its_config(tmp_path: Path) -> None:
    assert load_base_model(ModelConfig(path=write_base_model(tmp_path), name="demo")) == MODEL
    changes = {"head_dim": None, "num_key_value_heads": None}
    shape = load_base_model(ModelConfig(path=write_base_model(tmp_path, **changes))).shape
    assert (shape.head_dim, shape.num_kv_heads) == (4, 4)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        json.dumps({**HF_CONFIG, "model_type": "gpt2"}),
        json.dumps({**HF_CONFIG, "hidden_size": None}),
        json.dumps({**HF_CONFIG, "hidden_size": "16"}),
        json.dumps({**HF_CONFIG, "num_hidden_layers": 0}),
        json.dumps({**HF_CONFIG, "num_attention_heads": 3, "head_dim": None}),
    ],
)
def test_unusable_base_model_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigInvalid, match=r"model\.path"):
        load_base_model(ModelConfig(path=tmp_path))


def test_base_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_base_model(ModelConfig(path=tmp_path / "nowhere"))


def every_error(kind: type[StoreError] = StoreError) -> list[type[StoreError]]:
    return [known for child in kind.__subclasses__() for known in (child, *every_error(child))]


def test_every_error_has_its_own_reason_and_a_status() -> None:
    kinds = every_error()
    assert {kind.__module__ for kind in kinds} == {errors.__name__}
    assert len({kind.reason for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", kind.reason)
        assert isinstance(kind.code, StatusCode)
        status = status_of(kind("what to change", field="a"))
        assert status.code == kind.code.value[0] != 0
        info = ErrorInfo()
        status.details[0].Unpack(info)
        assert (info.reason, info.domain, dict(info.metadata)) == (kind.reason, "multitude", {"field": "a"})


def test_retry_delay_is_told() -> None:
    retry = RetryInfo()
    status_of(TooManyUploads("later")).details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 1


def test_messages_are_short_and_valid_text() -> None:
    status = status_of(errors.AdapterUnsupported("\ud800" * 5000, tensor="\udfff" * 5000))
    assert len(status.SerializeToString()) < 2000
