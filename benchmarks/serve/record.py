"""Results of many runs in one file: each is kept by its name, with when and where it ran."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from benchmarks import result
from benchmarks.result import Figure
from benchmarks.serve.goals import figures


@dataclass(frozen=True)
class Record:
    """The runs of one setup on one kind of machine, at one level: `engine` or `stack`.

    Attributes:
        setup: Its name.
        level: Who was measured.
        machine: The GPU as a word, or cpu.
        runs: By name: `time`, `machine`, `options`, `figures` and maybe `timeline` of each.
    """

    setup: str
    level: str
    machine: str
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file that `write` made."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(document["setup"], document["level"], document["kind"], document["runs"])

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return f"serve-{self.setup.lower()}-{self.level}-{self.machine}.json"

    def add(
        self,
        name: str,
        summary: Mapping[str, float],
        *,
        machine: Mapping[str, object],
        options: Mapping[str, object],
        timeline: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Takes a run in the place of an older one of its name."""
        self.runs[name] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": dict(machine),
            "options": dict(options),
            "figures": dict(summary),
            **({"timeline": dict(timeline)} if timeline else {}),
        }

    def merge(self, other: "Record") -> None:
        """Takes another's runs; of two of one name the later stays."""
        assert (self.setup, self.level, self.machine) == (other.setup, other.level, other.machine)
        for name, run in other.runs.items():
            if name not in self.runs or self.runs[name]["time"] <= run["time"]:
                self.runs[name] = run

    def goals(self) -> list[Figure]:
        """What has a goal, over all runs."""
        return figures(self.setup, self.level, {name: run["figures"] for name, run in self.runs.items()})

    def write(self, folder: Path) -> Path:
        """Writes the file, with the runs that are there already and are not in this record."""
        path = folder / self.file_name
        if path.exists():
            before = Record.read(path)
            before.merge(self)
            self.runs.clear()
            self.runs.update(before.runs)
        latest = max(self.runs.values(), key=lambda run: str(run["time"]))
        return result.write(
            path.stem,
            self.goals(),
            folder=folder,
            machine=latest["machine"],
            extra={"setup": self.setup, "level": self.level, "kind": self.machine, "runs": self.runs},
        )
