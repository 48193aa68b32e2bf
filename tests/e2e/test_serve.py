"""`multitude serve`, and the commands that the README gives beside it."""

import json
import shutil
import signal
import socket
import subprocess
import sys

import psutil

from tests.e2e.conftest import DEMO_MODEL

COMMAND = [sys.executable, "-m", "multitude"]


def _free_addresses():
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in (one, other)]


def test_serves_a_folder_of_adapters_until_interrupted(tmp_path):
    shutil.copytree(DEMO_MODEL / "adapters" / "reverse", tmp_path / "reverse")
    shutil.copytree(DEMO_MODEL / "adapters" / "upper", tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"{}")
    address, store_address = _free_addresses()
    words = [*COMMAND, "--address", address, "--store-address", store_address]
    serving = subprocess.Popen(
        [*words, "serve", DEMO_MODEL / "base", "--model-name", "demo", "--adapters", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in serving.stderr:
            said.append(line)
            if line.startswith("serving"):
                break
        assert said[-1].startswith("serving demo after"), said
        assert said[-1].endswith(f"control plane {address}, adapter store {store_address}; Ctrl-C stops\n")
        assert "published 1 adapters as local/<name>\n" in said
        assert any(line.startswith(f"not published {tmp_path / 'broken'}: ADAPTER_") for line in said)
        children = psutil.Process(serving.pid).children(recursive=True)

        def run(*more):
            return subprocess.run([*words, *more], capture_output=True, text=True, timeout=60, check=True).stdout

        assert run("generate", "k3Fa=>", "--adapter", "local/reverse", "-t", "0") == "aF3k\n"
        assert json.loads(run("--json", "adapters", "list"))["adapter_id"] == "local/reverse"
        assert json.loads(run("--json", "status"))["workers"][0]["is_attached"]
        serving.send_signal(signal.SIGINT)
        assert serving.stderr.read() == "stopped\n"
        assert serving.wait(60) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    finally:
        serving.kill()
