"""Matches regular expressions against module names; runs in the store, or by itself as a child process.

As a child process (`python -I -S matcher.py`) it reads one JSON object from stdin, `{"queries": [[expression, whole],
..], "keys": [..]}`, and writes one to stdout: `{"matches": ..}` as `match_all` returns them, or `{"invalid":
expression, "message": ..}`. It imports the standard library only, so that it starts in milliseconds.
"""

import json
import re
import resource
import sys
from collections.abc import Sequence
from typing import NamedTuple

MAX_CHILD_BYTES = 512 << 20


class Query(NamedTuple):
    """An expression and how to apply it: to the `whole` key, or from its start."""

    expression: str
    whole: bool


class ExpressionInvalid(Exception):
    """An expression that Python's `re` does not take."""

    def __init__(self, expression: str, message: str) -> None:
        super().__init__(message)
        self.expression = expression
        self.message = message


def match_all(queries: Sequence[Query], keys: Sequence[str]) -> list[list[str | None]]:
    """Applies every query to every key.

    Returns:
        `[len(queries)][len(keys)]`: None without a match, else what the group `idx` matched ("" without that group).

    Raises:
        ExpressionInvalid: An expression cannot be compiled.
    """
    return [_match(query, keys) for query in queries]


def _match(query: Query, keys: Sequence[str]) -> list[str | None]:
    try:
        compiled = re.compile(query.expression)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ExpressionInvalid(query.expression, str(error) or type(error).__name__) from None
    apply = compiled.fullmatch if query.whole else compiled.match
    matches = (apply(key) for key in keys)
    return [None if match is None else match.groupdict().get("idx") or "" for match in matches]


def main() -> None:
    """Answers the one request on stdin."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_CHILD_BYTES, MAX_CHILD_BYTES))
    request = json.load(sys.stdin)
    queries = [Query(expression, whole) for expression, whole in request["queries"]]
    try:
        answer: dict[str, object] = {"matches": match_all(queries, request["keys"])}
    except ExpressionInvalid as error:
        answer = {"invalid": error.expression, "message": error.message}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
