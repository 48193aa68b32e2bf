"""The wheel holds the client alone, so that no application gets top-level modules named `kernels` or `worker`."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_wheel_holds_multitude_alone(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "multitude", "worker", "kernels", "control_plane"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(source)], check=True)
    (wheel,) = tmp_path.glob("multitude-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"multitude"}
    assert "multitude/v1/generation_pb2_grpc.py" in names
    assert "multitude/py.typed" in names


def test_client_imports_nothing_heavy():
    heavy = {
        "torch",
        "transformers",
        "redis",
        "numpy",
        "pydantic",
        "worker",
        "kernels",
        "control_plane",
        "adapter_store",
    }
    code = f"import multitude, multitude.cli, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
