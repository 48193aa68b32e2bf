"""The one-machine launcher, where something is wrong."""

import shutil
import sys

import pytest

from multitude import Client
from multitude.errors import LocalStackError
from multitude.local import LocalConfig, LocalStack, stack
from tests.e2e.conftest import DEMO_MODEL


def _config(**options) -> LocalConfig:
    model = options.pop("model", DEMO_MODEL / "base")
    return LocalConfig(model=model, address="127.0.0.1:0", store_address="127.0.0.1:0", **options)


@pytest.fixture
def run_dir():
    """Takes the folder of a stack that failed, which stays for its logs, and removes it."""
    folders = []
    yield folders.append
    for folder in folders:
        shutil.rmtree(folder)


def test_redis_that_ends_at_once_is_named(monkeypatch, run_dir):
    monkeypatch.setattr(stack, "redis_command", lambda socket: [sys.executable, "-c", "raise SystemExit('no room')"])
    local = LocalStack(_config(model_name="demo"))
    run_dir(local.run_dir)
    with pytest.raises(LocalStackError, match="no room") as caught:
        local.start()
    assert caught.value.reason == "SERVICE_ENDED"
    assert not local.pids


def test_a_wrong_setting_is_told_and_nothing_is_left_running(run_dir):
    local = LocalStack(_config(worker_settings={"colour": "red"}))
    run_dir(local.run_dir)
    with pytest.raises(LocalStackError, match=r"(?s)ended.*colour") as caught:
        local.start()
    assert caught.value.reason == "SERVICE_NOT_STARTED"
    assert not local.pids


def test_names_and_folders_may_look_like_yaml(tmp_path):
    model, data = tmp_path / "my: model #1", tmp_path / "[data"
    shutil.copytree(DEMO_MODEL / "base", model)
    with (
        LocalStack(_config(model=model, model_name="7", data_dir=data)) as local,
        Client(local.address, store_address=local.store_address) as client,
    ):
        assert [listed.id for listed in client.models()] == ["7"]
        assert data.is_dir()
