"""What an operator decides about serving."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in force, named by its file's digest."""

    name: str
    digest: str
