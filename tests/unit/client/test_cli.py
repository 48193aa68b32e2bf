"""The command: what it prints, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from multitude.errors import InvalidRequestError
from multitude.plot import plot_outcomes
from tests.unit.client.fake_services import Script, serving


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def run(script):
    """Runs the command against the scripted services; returns the finished process."""
    with serving(script) as address:

        def call(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "multitude", "--address", address, "--store-address", address, *words]
            return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

        yield call


@pytest.fixture
def peft_dir(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 100)
    return tmp_path


def test_generate_prints_the_text(run, script):
    done = run("generate", "hi", "--adapter", "team/a", "--temperature", "0", "--stop", "x", "--stats")
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    assert "3 prompt tokens, 3 output tokens" in done.stderr
    assert script.requests[0].adapter == "team/a"


def test_generate_reads_standard_input_and_prints_json(run, script):
    done = run("--json", "generate", text="from stdin\n")
    assert json.loads(done.stdout)["text"] == "Hello"
    assert script.requests[0].prompt.text == "from stdin"


def test_a_tenant_is_named_by_an_option(run, script):
    assert run("--tenant", "acme", "generate", "hi").returncode == 0
    assert script.tenants == ["acme"]


def test_broken_utf8_is_refused_by_name(script):
    with serving(script) as address:
        command = [sys.executable, "-m", "multitude", "--address", address, "generate"]
        done = subprocess.run(command, input=b"a\xff", capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"REQUEST_NOT_ENCODABLE" in done.stderr


def test_chat_keeps_the_conversation(run, script):
    done = run("chat", "--system", "be brief", text="one\ntwo\n")
    assert done.returncode == 0
    assert done.stdout == "Hello\nHello\n"
    roles = [message.role for message in script.requests[1].prompt.chat.messages]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 2),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
def test_errors_are_one_line_and_an_exit_code(run, script, code, exit_code):
    script.fail = (code, "SOME_REASON", "change [this]")
    done = run("generate", "hi")
    assert done.returncode == exit_code
    assert done.stderr.strip() == "error SOME_REASON: change [this] (try again in 2.5 s)"


def test_adapters(run, peft_dir):
    assert "no adapters" in run("adapters", "list").stdout
    assert "team/a published: rank 8, q v" in run("adapters", "add", "team/a", str(peft_dir)).stdout
    assert "team/a" in run("adapters", "list").stdout
    assert json.loads(run("--json", "adapters", "list").stdout)["adapter_id"] == "team/a"
    assert "sha256:cc" in run("adapters", "show", "team/a").stdout
    assert run("adapters", "rm", "team/a").stdout == "deleted team/a\n"


def test_status_and_policy(run, script, tmp_path):
    assert "w0" in run("status").stdout
    (worker,) = json.loads(run("--json", "status").stdout)["workers"]
    assert (worker["worker_id"], worker["labels"], worker["tenants"]) == ("w0", {"zone": "a"}, ["t"])
    file = tmp_path / "policy.yaml"
    file.write_text("name: x\n")
    assert run("policy", "check", str(file)).returncode == 0
    script.problems = ((3, "scorers[0].weight", "must be at most 1"),)
    done = run("policy", "check", str(file))
    assert done.returncode == 2
    assert done.stdout == f"{file}:3: scorers[0].weight: must be at most 1\n"
    assert run("policy", "show").stdout == "name: default\n"


def test_warnings_are_shown_and_the_policy_is_applied(run, script, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("name: x\n")
    script.warnings = ((3, "filters[0].share", "keeps every page free"),)
    warning = f"warning: {file}:3: filters[0].share: keeps every page free\n"
    done = run("policy", "check", str(file))
    assert (done.returncode, done.stdout) == (0, f"{warning}{file}: good, with warnings\n")
    checked = json.loads(run("--json", "policy", "check", str(file)).stdout)
    assert checked["problems"] == []
    assert checked["warnings"] == [{"line": 3, "path": "filters[0].share", "message": "keeps every page free"}]
    assert run("policy", "apply", str(file)).stdout.startswith(warning)
    applied = json.loads(run("--json", "policy", "apply", str(file)).stdout)
    assert (applied["version"], applied["warnings"]) == (2, checked["warnings"])


def test_policies_are_applied_listed_and_rolled_back(run, script, tmp_path):
    assert "none was applied" in run("policy", "history").stdout
    file = tmp_path / "policy.yaml"
    file.write_text("name: spread\n")
    assert run("policy", "apply", str(file)).stdout == "policy spread is in force as version 1\n"
    assert run("policy", "apply", str(file)).returncode == 0
    lines = run("policy", "history").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["version", "2", "1"]
    assert "in force" in lines[1]
    assert "2027-01-15 08:00:00" in lines[2]
    history = [json.loads(line) for line in run("--json", "policy", "history").stdout.splitlines()]
    assert [entry["version"] for entry in history] == [2, 1]
    assert run("policy", "rollback").stdout == "policy spread is in force as version 3, again version 1\n"
    assert "policy files of the control planes are in force as version 4" in run("policy", "rollback", "0").stdout
    done = run("policy", "rollback", "9")
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "error POLICY_VERSION_NOT_FOUND")
    assert run("policy", "rollback", "-1").returncode == 2


def test_a_bad_policy_is_not_applied(run, script, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("name: x\n")
    script.problems = ((3, "scorers[0].weight", "must be at most 1"),)
    done = run("policy", "apply", str(file))
    assert (done.returncode, done.stdout) == (2, f"{file}:3: scorers[0].weight: must be at most 1\n")
    assert script.applied == []
    file.write_bytes(b"\xff")
    done = run("policy", "apply", str(file))
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr


def test_a_placement_is_explained_as_a_table_best_first(run, script):
    lines = run("--tenant", "acme", "policy", "explain", "--adapter", "team/a").stdout.splitlines()
    assert lines[0] == "now it would go to w2 (policy default, profile default, max_score)"
    assert lines[1].split() == ["worker", "score", "#", "load", "x4", "#", "refused", "by"]
    assert [line.split() for line in lines[2:]] == [
        ["→", "w2", "0.750", "0.500"],
        ["w1", "0.250", "0.500"],
        ["w0", "-", "-", "adapter_fits,", "max_load"],
    ]
    assert (script.explained[0].adapter, script.explained[0].tenant) == ("team/a", "acme")
    done = run("policy", "explain", "--adapter", "team/a", "--workers", "1")
    assert done.stdout.splitlines()[-1] == "and 2 more; --workers N or --json shows them"
    assert json.loads(run("--json", "policy", "explain", "--adapter", "").stdout)["decision"]["worker_id"] == "w2"


def test_a_request_is_explained_with_its_story(run):
    lines = run("policy", "explain", "r").stdout.splitlines()
    assert lines[0] == "request r of tenant acme, team/a: failed on one"
    assert lines[2].endswith("arrived with 7 prompt tokens".ljust(len(lines[2]) - lines[2].index("arrived")))
    assert lines[3].split(None, 2)[2].strip() == "sent to w1: its adapter was not there"
    assert "failed, 0 output tokens, ADAPTER_CORRUPT: its digest is wrong" in lines[4]
    assert run("policy", "explain").returncode == 2
    assert run("policy", "explain", "r", "--adapter", "x").returncode == 2
    done = run("policy", "explain", "unknown")
    assert (done.returncode, "REQUEST_NOT_REMEMBERED" in done.stderr) == (2, True)


@pytest.fixture
def policies(tmp_path):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text(f"name: {file.stem}\n")
    trace = tmp_path / "trace.jsonl"
    trace.write_text("{}\n")
    return str(trace), *map(str, files)


def test_policies_are_simulated_and_drawn(run, script, policies, tmp_path):
    trace, one, other = policies
    picture = tmp_path / "plot.png"
    words = ("--policy", one, "--policy", other, "--workers", "3", "--cost", "step_s=0.01", "--plot", str(picture))
    words += ("--cost", "h200-llama-7b")
    done = run("policy", "simulate", trace, *words)
    assert done.returncode == 0, done.stderr
    rows = {line[:28].strip(): line[28:].split() for line in done.stdout.splitlines()}
    assert rows["attainment"] == ["0.900", "0.800"]
    assert rows["requests finished"] == ["9", "of", "10", "0", "of", "10"]
    assert rows["fairness among tenants"] == rows["balance of workers"] == ["1.000", "-"]
    assert rows["QUEUE_FULL"] == ["1", "2"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    (request,) = script.simulated
    assert [(policy.label, policy.yaml) for policy in request.policies] == [("a", "name: a\n"), ("b", "name: b\n")]
    assert (request.trace, request.worker_count, dict(request.costs)) == ("{}\n", 3, {"step_s": 0.01})
    assert request.service == "h200-llama-7b"


def test_one_policy_is_compared_with_the_one_in_force(run, script, policies):
    trace, one, _ = policies
    outcomes = json.loads(run("--json", "policy", "simulate", trace, "--policy", one).stdout)
    assert [outcome["label"] for outcome in outcomes] == ["(in force)", "a"]
    assert script.simulated[0].policies[0].yaml == "name: default\n"


def test_what_cannot_be_simulated_is_a_usage_error(run, policies, tmp_path):
    trace, one, _ = policies
    for words in (
        ("--cost", "a", "--cost", "b"),
        ("--cost", "x=y"),
        ("--plot", "x.jpg"),
        ("--policy", one, "--policy", one),
    ):
        done = run("policy", "simulate", trace, "--policy", one, *words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidRequestError, match="pip install matplotlib"):
        plot_outcomes((), tmp_path / "x.png")


def test_status_says_which_policy_wins(run):
    lines = run("status").stdout.splitlines()
    assert lines[-1] == (
        "policy default, applied as version 2, wins over /policies/default.yaml (multitude policy rollback 0 ends that)"
    )
    assert [line.split()[0] for line in lines if line.split()[0] in {"one", "two"}] == ["one", "two"]


def test_broken_unicode_in_an_argument_is_a_usage_error(run):
    done = run("adapters", "show", "team/a\udcff")
    assert done.returncode == 2
    assert "not valid Unicode" in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_exit_with_two(run):
    assert run("generate", "--nope").returncode == 2
    assert run("adapters", "add", "x").returncode == 2
    assert run("serve", "/nowhere").returncode == 2


def test_no_colour_off_a_terminal(run, script):
    script.fail = (grpc.StatusCode.INTERNAL, "INTERNAL", "oops")
    done = run("generate", "hi")
    assert "\x1b" not in done.stderr + run("status").stdout


def test_completion_scripts(run):
    for shell in ("bash", "zsh", "fish"):
        assert "multitude" in run("completion", shell).stdout


def test_operators_commands_are_completed():
    found = {}
    for words in ("multitude policy ", "multitude policy simulate --", "multitude policy explain --"):
        environment = {"_MULTITUDE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "from multitude.cli import root; root(prog_name='multitude')"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        found[words] = {line.partition(",")[2] for line in done.stdout.splitlines()}
    commands, simulating, explaining = found.values()
    assert commands >= {"apply", "check", "explain", "history", "rollback", "show", "simulate"}
    assert simulating >= {"--policy", "--plot", "--workers", "--seed", "--cost"}
    assert explaining >= {"--adapter", "--workers"}


@pytest.mark.parametrize("words", [("status",), ("--json", "status"), ("policy", "show"), ("generate", "hi")])
def test_output_that_nobody_reads_is_no_fault(script, words):
    with serving(script) as address:
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "multitude", "--address", address, *words]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [("status",), ("--json", "status")])
def test_a_full_disk_is_one_line(script, words):
    with serving(script) as address, Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "multitude", "--address", address, *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error [Errno 28] No space left on device"
    assert "Traceback" not in done.stderr


def test_drain(run, script):
    assert run("drain", "w0").stdout == "w0: gets no new request\n"
    assert run("drain", "w0", "--off").stdout == "w0: back in service\n"
    assert run("drain", "w1").stdout.splitlines() == [
        "w1: gets no new request",
        "w1: no such worker is attached now; this holds for it when it comes",
    ]
    drained = json.loads(run("--json", "drain", "w1").stdout)
    assert drained == {"worker_id": "w1", "is_draining": True, "is_attached": False}
    assert script.drained == [("w0", True), ("w0", False), ("w1", True), ("w1", True)]
