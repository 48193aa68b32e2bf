"""Regular expressions from adapters, under a time limit.

Python's `re` can take exponential time on a hostile expression, holds the interpreter's lock all the while and cannot
be interrupted. Expressions without repetition, choice and groups cannot do that and are matched here; with any other,
a child process does the matching and is killed when its time is up.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from adapter_store.errors import AdapterConfigInvalid
from adapter_store.peft import matcher
from adapter_store.peft.matcher import ExpressionInvalid, Query, match_all

_SIMPLE = re.compile(r"[\w.^$\\-]*")


def is_simple(expression: str) -> bool:
    """Whether an expression surely matches in linear time."""
    return _SIMPLE.fullmatch(expression) is not None


def match_within(
    queries: Sequence[Query], keys: Sequence[str], *, simple: bool, timeout_s: float
) -> list[list[str | None]]:
    """`match_all`, in at most `timeout_s` seconds; `simple` says that every expression is built of simple ones.

    Raises:
        AdapterConfigInvalid: An expression is invalid, or takes too long.
    """
    try:
        return match_all(queries, keys) if simple else _match_in_child(queries, keys, timeout_s)
    except ExpressionInvalid as error:
        raise AdapterConfigInvalid(
            f"{error.expression!r} is not a regular expression: {error.message}", expression=error.expression
        ) from None


def _match_in_child(queries: Sequence[Query], keys: Sequence[str], timeout_s: float) -> list[list[str | None]]:
    request = json.dumps({"queries": queries, "keys": keys})
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(matcher.__file__).resolve())],
            input=request.encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AdapterConfigInvalid(
            f"the regular expressions of adapter_config.json took longer than {timeout_s} s; write plain module names"
        ) from None
    if child.returncode:
        raise AdapterConfigInvalid(
            "the regular expressions of adapter_config.json took too much memory; write plain module names"
        )
    answer = json.loads(child.stdout)
    if "invalid" in answer:
        raise ExpressionInvalid(answer["invalid"], answer["message"])
    matches: list[list[str | None]] = answer["matches"]
    return matches
