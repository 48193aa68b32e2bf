"""A step's roofline: measured parts beside their floors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.kernels.floors import Ceilings
from benchmarks.roofline.case import Case
from benchmarks.roofline.parts import ALL, Part
from benchmarks.roofline.trace import Spent


@dataclass(frozen=True)
class Line:
    """One part, in milliseconds of one step; `busy` and `alone` as in `Spent`."""

    part: str
    busy_ms: float
    alone_ms: float
    floor_ms: float
    kernels: float


@dataclass(frozen=True)
class Roofline:
    """One case: its parts, and a step's time by the clock without a profiler."""

    case: Case
    wall_ms: float
    lines: tuple[Line, ...]

    @property
    def busy_ms(self) -> float:
        """While the device did something."""
        return sum(line.busy_ms for line in self.lines)

    @property
    def floor_ms(self) -> float:
        """Of all parts, one after the other."""
        return sum(line.floor_ms for line in self.lines)

    @property
    def idle_share(self) -> float:
        """Of the step, in which the device did nothing; profiled kernels may be slower than others, so at least 0."""
        return max(0.0, 1 - self.busy_ms / self.wall_ms)

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=str(self.case), title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in ("part", "ms", "of the step", "floor ms", "floor / ms", "alone ms", "kernels"):
            table.add_column(column, justify="left" if column == "part" else "right")
        for line in self.lines:
            share = f"{line.floor_ms / line.busy_ms:.2f}" if line.busy_ms and line.floor_ms else ""
            table.add_row(
                line.part,
                f"{line.busy_ms:.3f}",
                f"{line.busy_ms / self.wall_ms:.1%}",
                f"{line.floor_ms:.3f}",
                share,
                f"{line.alone_ms:.3f}",
                f"{line.kernels:g}",
            )
        idle = self.wall_ms * self.idle_share
        table.add_row("idle", f"{idle:.3f}", f"{self.idle_share:.1%}", "", "", "", "")
        table.add_row("[bold]step[/]", f"{self.wall_ms:.3f}", "", f"{self.floor_ms:.3f}", self._share(), "", "")
        return table

    def described(self) -> dict[str, object]:
        """For a file."""
        case = self.case
        return {
            "setup": case.setup.name,
            **{name: getattr(case, name) for name in ("rows", "adapters", "context", "chunk")},
            "wall_ms": round(self.wall_ms, 4),
            "busy_ms": round(self.busy_ms, 4),
            "floor_ms": round(self.floor_ms, 4),
            "idle_share": round(self.idle_share, 4),
            "parts": [
                {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(line).items()}
                for line in self.lines
            ],
        }

    def _share(self) -> str:
        return f"{self.floor_ms / self.wall_ms:.2f}"


def roofline(case: Case, wall_ms: float, spent: Mapping[Part, Spent], num_steps: int, ceilings: Ceilings) -> Roofline:
    """Of `num_steps` profiled steps. A part that ran nothing has no line, and no floor."""
    lines = []
    names = {part.name for part in spent}
    for part in ALL:
        if (own := spent.get(part)) is not None:
            floor_ms = ceilings.floor_us(part.work(case, names)) / 1000
            busy_ms, alone_ms = own.busy / num_steps / 1000, own.alone / num_steps / 1000
            lines.append(Line(part.name, busy_ms, alone_ms, floor_ms, round(own.count / num_steps, 2)))
    return Roofline(case, wall_ms, tuple(lines))
