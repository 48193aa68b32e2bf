"""What is wrong with a policy file."""

from dataclasses import dataclass

import yaml


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """One fault: the line, from 1, or 0 if none can be named; the path of the value; what to change."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class PolicyError(Exception):
    """A policy file that cannot come into force; `problems` names every fault, by line."""

    def __init__(self, problems: tuple[PolicyProblem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class ProblemList:
    """Collects faults, so that one reading reports them all."""

    def __init__(self) -> None:
        self._problems: list[PolicyProblem] = []

    def add(self, node: yaml.Node, path: str, message: str) -> None:
        """Name a fault of a value, where it stands in the text."""
        self._problems.append(PolicyProblem(node.start_mark.line + 1, path, message))

    def has_fault_below(self, path: str) -> bool:
        """Whether a fault of this value, or of one in it, was named."""
        return any(each.path == path or each.path.startswith((f"{path}.", f"{path}[")) for each in self._problems)

    def raise_if_any(self) -> None:
        """Raises PolicyError if there are faults."""
        if self._problems:
            raise PolicyError(tuple(sorted(self._problems, key=lambda problem: problem.line)))
