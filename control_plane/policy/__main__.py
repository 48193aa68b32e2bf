"""`python -m control_plane.policy check FILE...`: checks policy files where no control plane runs.

Prints each fault and each doubtful setting with its line, as `multitude policy check` does, which also knows the rates
that a fleet was measured to have. Returns 2 if a file is bad, 0 if there are only warnings.
"""

import argparse
import sys
from pathlib import Path

from control_plane.policy.document import PolicyError, load_policy
from control_plane.policy.problems import PolicyProblem


def main(arguments: list[str] | None = None) -> int:
    """Checks every file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m control_plane.policy", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    check = actions.add_parser("check", help="check policy files; exit code 2 if one is bad")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    num_bad = sum(not _is_good(file) for file in options.files)
    return 2 if num_bad else 0


def _is_good(file: Path) -> bool:
    try:
        doubts = load_policy(file.read_text(encoding="utf-8")).doubts()
    except (OSError, UnicodeDecodeError) as error:
        print(f"{file}: cannot be read: {error}")
        return False
    except PolicyError as error:
        for problem in error.problems:
            print(_where(file, problem))
        return False
    for doubt in doubts:
        print(f"warning: {_where(file, doubt)}", file=sys.stderr)
    print(f"{file}: good{', with warnings' if doubts else ''}")
    return True


def _where(file: Path, problem: PolicyProblem) -> str:
    place = f"{file}:{problem.line}" if problem.line else str(file)
    return f"{place}: {problem.path}: {problem.message}" if problem.path else f"{place}: {problem.message}"


if __name__ == "__main__":
    sys.exit(main())
