"""Reads the settings that a frozen dataclass declares."""

import re
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import yaml

from control_plane.core.settings import Bounds, LabelMatch, bounds_of
from control_plane.policy.problems import ProblemList
from control_plane.policy.tree import Entry, entries, items, joined, refuse_unknown, scalar, suggestion

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BAD: Any = object()


def decode_settings(
    kind: type[T], found: Mapping[str, Entry], path: str, problems: ProblemList, *, other_keys: tuple[str, ...] = ()
) -> T | None:
    """An instance of a dataclass of numbers, enums and labels from a mapping; what is left out takes its default.

    `other_keys` are the mapping's keys that are no settings. None, and a problem for each fault, if there is one.
    """
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    refuse_unknown(dict(found), (*declared, *other_keys), path, problems, noun="setting")
    hints = get_type_hints(kind)
    values = {
        name: _value(hints[name], bounds_of(field.metadata), found[name].value, joined(path, name), problems)
        for name, field in declared.items()
        if name in found
    }
    return None if any(value is _BAD for value in values.values()) else kind(**values)


def decode_number(
    kind: type[int] | type[float], bounds: Bounds | None, node: yaml.Node, path: str, problems: ProblemList
) -> Any:
    """A number of the kind and range; None, and a problem, if it is not."""
    value = _value(kind, bounds, node, path, problems)
    return None if value is _BAD else value


def _value(kind: Any, bounds: Bounds | None, node: yaml.Node, path: str, problems: ProblemList) -> Any:
    if kind is LabelMatch:
        return _labels(node, path, problems)
    value = scalar(node)
    if issubclass(kind, Enum):
        return _enum(kind, value, node, path, problems)
    noun = "a whole number" if kind is int else "a number"
    is_number = isinstance(value, int) if kind is int else isinstance(value, int | float)
    if not is_number or isinstance(value, bool):
        problems.add(node, path, f"must be {noun}, not {_shown(node)}")
        return _BAD
    assert isinstance(value, int | float)
    if bounds is not None and value not in bounds:
        problems.add(node, path, f"must be {bounds}, not {value}")
        return _BAD
    return kind(value)


def _enum(kind: type[Enum], value: object, node: yaml.Node, path: str, problems: ProblemList) -> Any:
    known = {str(member.value): member for member in kind}
    if isinstance(value, str) and value in known:
        return known[value]
    shown = value if isinstance(value, str) else ""
    problems.add(node, path, f"cannot be {_shown(node)}: {suggestion(shown, known)}")
    return _BAD


def _labels(node: yaml.Node, path: str, problems: ProblemList) -> Any:
    found = entries(node, path, problems)
    if found is None:
        return _BAD
    values_of = [(key, decode_texts(entry.value, joined(path, key), problems)) for key, entry in found.items()]
    if not values_of:
        problems.add(node, path, "must hold at least one label, such as `zone: a`")
        return _BAD
    is_good = all(values for _, values in values_of)
    return LabelMatch(tuple((key, values) for key, values in values_of if values)) if is_good else _BAD


def decode_flag(node: yaml.Node, path: str, problems: ProblemList) -> bool | None:
    """True or false; None, and a problem, if it is neither."""
    value = scalar(node)
    if isinstance(value, bool):
        return value
    problems.add(node, path, f"must be true or false, not {_shown(node)}")
    return None


def decode_name(node: yaml.Node, found: Mapping[str, Entry], path: str, problems: ProblemList, *, noun: str) -> str:
    """What a mapping is named; empty, and a problem, if it has no good name."""
    name_path = joined(path, "name")
    if "name" not in found:
        problems.add(node, name_path, f"is missing: give the {noun} a name")
        return ""
    value = scalar(found["name"].value)
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    message = "must be text of at most 64 letters, digits, `.`, `_` and `-`"
    problems.add(found["name"].value, name_path, message)
    return ""


def decode_texts(node: yaml.Node, path: str, problems: ProblemList) -> tuple[str, ...] | None:
    """A text, or a list of at least one; None, and a problem, if it is not."""
    nodes = items(node, path, problems) if isinstance(node, yaml.SequenceNode) else [node]
    values = [scalar(each) for each in nodes or ()]
    texts = tuple(value for value in values if isinstance(value, str) and value)
    if not nodes or len(texts) < len(values):
        problems.add(node, path, "must be text, or a list of texts; put what looks like a number in quotes")
        return None
    return texts


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        text = node.value if len(node.value) <= 40 else node.value[:40] + "…"
        return f"the text `{text}`" if node.style in {"'", '"'} else f"`{text}`"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
