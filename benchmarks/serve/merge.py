"""`python -m benchmarks.serve.merge FILE...`: takes runs measured elsewhere into the results here, and draws them."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import result
from benchmarks.serve.plot import draw
from benchmarks.serve.record import Record


def main() -> int:
    """Prints what has a goal; ends with 1 if one is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.merge", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--into", type=Path, default=result.RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    written = dict.fromkeys(Record.read(path).write(options.into) for path in options.files)
    goals = []
    for path in written:
        print(draw(path))
        goals += Record.read(path).goals()
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(result.goal_table(goals))
    return 0 if all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
