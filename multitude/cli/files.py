"""Files that commands read."""

from pathlib import Path
from typing import Final

import click

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)


def read_text(file: Path) -> str:
    """A file's text. Raises ClickException if it is not text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8 text: {error}") from error
