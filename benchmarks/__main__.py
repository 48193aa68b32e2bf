"""`python -m benchmarks [NAME ...]`: runs the CPU benchmarks, prints a table, writes benchmarks/results."""

import argparse
import sys

from rich.console import Console

from benchmarks import adapters, many_adapters, placement, relay, result, stack, start
from benchmarks.slo import attainment, fairness

BENCHMARKS = {
    "adapters": adapters.measure,
    "stack": stack.measure,
    "start": start.measure,
    "many_adapters": many_adapters.measure,
    "placement": placement.measure,
    "relay": relay.measure,
    "slo-attainment": attainment.measure,
    "slo-fairness": fairness.measure,
}


def main() -> int:
    """Exits with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    measured: list[result.Figure] = []
    for name in names:
        console.print(f"[dim]{name} …[/]")
        figures = BENCHMARKS[name]()
        result.write(name, figures)
        for figure in figures:
            console.print(f"[dim]  {figure.details}[/]", markup=True)
        measured += figures
    console.print(result.goal_table(measured))
    return 0 if all(figure.is_met for figure in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
