"""How the command prints: tables for people, JSON for programs; colour only on a terminal."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multitude.errors import MultitudeError


@dataclass(frozen=True, slots=True)
class Output:
    """Prints to standard output; `as_json` prints JSON only."""

    as_json: bool = False

    def document(self, value: Any) -> None:
        """Prints a value as JSON."""
        print(json.dumps(_plain(value), indent=2 if sys.stdout.isatty() else None, ensure_ascii=False), flush=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Prints a table, or `empty` if it has no row."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold", justify="right" if column.endswith("#") else "left")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        console = Console(highlight=False, width=200)  # a long row goes on below; folded cells cannot be read
        console.print(table if table.row_count else empty)

    def line(self, text: str) -> None:
        """Prints a line as it is."""
        print(text, flush=True)

    def warning(self, text: str) -> None:
        """Prints a line as it is, yellow on a terminal."""
        Console(highlight=False, soft_wrap=True).print(text, style="yellow", markup=False, emoji=False)

    @staticmethod
    def report_error(error: MultitudeError) -> None:
        """Prints an error's reason and message to standard error."""
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        retry = f" (try again in {error.retry_after_s:.1f} s)" if error.retry_after_s is not None else ""
        console.print(f"[bold red]error[/] {error.reason}: ", end="")
        console.print(f"{error.message}{retry}", markup=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
