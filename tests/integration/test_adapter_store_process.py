"""The adapter store as a process: how it starts, stops, and survives being killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from multitude.v1 import adapter_pb2 as pb
from multitude.v1.adapter_pb2_grpc import AdapterServiceStub
from tests.unit.adapter_store.peft_directories import write_base_model, write_directory

ROOT = Path(__file__).parents[2]


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    settings = [
        "listen=127.0.0.1:0",
        f"data_dir={folder}/data",
        f"model.path={folder}/demo",
        f"import_roots=[{folder}]",
    ]
    arguments = [word for setting in [*settings, *overrides] for word in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "adapter_store", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], AdapterServiceStub]]:
    process = start(folder)
    try:
        assert process.stdout is not None
        ready, service, address = process.stdout.readline().split()
        assert (ready, service) == ("ready", "adapter_store")
        with grpc.insecure_channel(address) as channel:
            yield process, AdapterServiceStub(channel)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base_model(tmp_path / "demo")
    write_directory(tmp_path / "adapter")
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_when_told(folder: Path, number: signal.Signals) -> None:
    with running(folder) as (process, stub):
        stub.ListAdapters(pb.ListAdaptersRequest())
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == ""
    assert err.count("config {") == 1
    assert "Traceback" not in err


def test_killed_store_comes_back_with_everything(folder: Path) -> None:
    request = pb.ImportAdapterRequest(adapter_id="team/name", source_uri=f"file://{folder}/adapter")
    with running(folder) as (process, stub):
        version = stub.ImportAdapter(request).version
        process.kill()
        process.wait()
    with running(folder) as (_, stub):
        assert stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name")).adapter.latest == version
        messages = stub.FetchWeights(pb.FetchWeightsRequest(digest=version.digest))
        assert sum(len(message.data) for message in messages) == version.size_bytes
        second = start(folder)
        out, err = second.communicate(timeout=20)
        assert (second.returncode, out) == (2, "")
        assert "in use by another adapter store" in err.splitlines()[-1]


def test_bad_configuration_is_one_line_per_problem(folder: Path) -> None:
    process = start(folder, "limits.max_rnk=4", "io_threads=0")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert sorted(line.split(":")[0] for line in err.splitlines()) == ["io_threads", "limits.max_rnk"]


def test_port_in_use_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(folder, f"listen={address}")
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert f"listen: {address} cannot be served on" in err
