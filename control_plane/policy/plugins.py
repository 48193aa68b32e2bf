"""Filters, scorers and pickers as they stand in a policy file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import yaml

from control_plane.core.placement.plugin import Filter, Picker
from control_plane.core.placement.profile import WeightedScorer
from control_plane.core.placement.registry import FILTERS, PICKERS, SCORERS
from control_plane.core.settings import Bounds, must_be_set
from control_plane.policy.problems import ProblemList
from control_plane.policy.settings import decode_number, decode_settings
from control_plane.policy.tree import Entry, entries, items, joined, scalar, suggestion

_WEIGHT = Bounds(0.0, 100.0)

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class _Plugin(Generic[P]):
    """A filter, scorer or picker as it stands in the file; `plugin` is None if it is faulty."""

    name: str
    plugin: P | None
    node: yaml.Node
    found: Mapping[str, Entry]


def decode_filters(node: yaml.Node, path: str, problems: ProblemList) -> tuple[Filter, ...]:
    """The filters of a list that are not faulty."""
    return tuple(each.plugin for each in _plugins(FILTERS, node, path, problems) if each.plugin is not None)


def decode_picker(node: yaml.Node, path: str, problems: ProblemList) -> Picker | None:
    """A picker; None if it is faulty."""
    return _plugin(PICKERS, node, path, problems).plugin


def decode_scorers(node: yaml.Node, path: str, problems: ProblemList) -> tuple[WeightedScorer, ...]:
    """The scorers of a list that are not faulty, with their weights."""
    plugins = _plugins(SCORERS, node, path, problems, other_keys=("weight",))
    weighted, is_faulty = [], False
    for index, each in enumerate(plugins):
        weight_path = f"{path}[{index}].weight"
        if "weight" not in each.found:
            if each.name:
                problems.add(each.node, weight_path, "is missing: say how much the scorer counts, such as `weight: 1`")
            is_faulty = True
            continue
        weight = decode_number(float, _WEIGHT, each.found["weight"].value, weight_path, problems)
        if weight is None or each.plugin is None:
            is_faulty = True
        else:
            weighted.append(WeightedScorer(each.plugin, weight))
    if not is_faulty and not any(each.weight > 0 for each in weighted):
        problems.add(node, path, "must hold at least one scorer with a weight above 0")
    return tuple(weighted)


def _plugins(
    registry: Mapping[str, type[P]],
    list_node: yaml.Node,
    list_path: str,
    problems: ProblemList,
    *,
    other_keys: tuple[str, ...] = (),
) -> list[_Plugin[P]]:
    plugins: list[_Plugin[P]] = []
    first_line: dict[str, int] = {}
    for index, node in enumerate(items(list_node, list_path, problems) or ()):
        path = f"{list_path}[{index}]"
        plugin = _plugin(registry, node, path, problems, other_keys=other_keys)
        plugins.append(plugin)
        line = node.start_mark.line + 1
        if plugin.name and first_line.setdefault(plugin.name, line) != line:
            problems.add(
                node, path, f"`{plugin.name}` is named twice, first on line {first_line[plugin.name]}: keep one"
            )
    return plugins


def _plugin(
    registry: Mapping[str, type[P]],
    node: yaml.Node,
    path: str,
    problems: ProblemList,
    *,
    other_keys: tuple[str, ...] = (),
) -> _Plugin[P]:
    """A registered plugin from its name alone, or from a mapping with `name` and its settings."""
    value, name_node = scalar(node), node
    found: dict[str, Entry] = {}
    if not isinstance(value, str):
        mapping = entries(node, path, problems)
        if mapping is None:
            return _Plugin("", None, node, {})
        found = mapping
        if "name" not in found:
            problems.add(node, joined(path, "name"), "is missing: " + suggestion("", registry))
            return _Plugin("", None, node, found)
        name_node = found["name"].value
        value = scalar(name_node)
    if not isinstance(value, str) or value not in registry:
        shown = value if isinstance(value, str) else ""
        problems.add(name_node, joined(path, "name"), f"`{shown}` is not known: {suggestion(shown, registry)}")
        return _Plugin("", None, node, found)
    for each in fields(registry[value]):  # type: ignore[arg-type]
        if must_be_set(each.metadata) and each.name not in found:
            problems.add(node, joined(path, each.name), f"is missing: `{value}` means nothing without")
    plugin = decode_settings(registry[value], found, path, problems, other_keys=("name", *other_keys))
    return _Plugin(value, plugin, node, found)
