"""Installs, in an image, what pyproject.toml says an extra needs: `install.py [torch] [EXTRA ...]`.

The package itself is not installed: the services run from the tree.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> None:
    """Installs torch first, where it is named, so that what depends on it finds it there; then the rest."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    if "torch" in extras:
        extras.remove("torch")
        install(["torch"])
    needs = list(project["dependencies"])
    for extra in extras:
        needs += project["optional-dependencies"][extra]
    install(needs)


def install(needs: list[str]) -> None:
    """One call of pip."""
    options = ["--constraint", "constraints.txt", "--find-links", "/wheels", *os.environ.get("PIP_OPTIONS", "").split()]
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--root-user-action", "ignore"]
    subprocess.run([*command, *options, *needs], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
