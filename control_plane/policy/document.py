"""From a policy file's text to a policy, or to everything that is wrong with it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import yaml

from control_plane.core.demand import ReplicationSettings
from control_plane.core.placement.plugin import Picker
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.core.placement.registry import FILTERS, PICKERS, SCORERS
from control_plane.core.policy import AdmissionSettings, ClusteringSettings, DispatchSettings, Policy
from control_plane.core.settings import Bounds
from control_plane.policy.problems import PolicyError, PolicyProblem, ProblemList
from control_plane.policy.settings import decode_number, decode_settings
from control_plane.policy.tree import Entry, entries, items, joined, parse, refuse_unknown, scalar, suggestion

__all__ = ["PolicyDocument", "PolicyError", "PolicyProblem", "load_policy"]

_KEYS = ("name", "admission", "clustering", "filters", "scorers", "picker", "replication", "dispatch")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WEIGHT = Bounds(0.0, 100.0)

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A good policy file: its text and the policy that it makes."""

    text: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Plugin(Generic[P]):
    """A filter, scorer or picker as it stands in the file; `plugin` is None if it is faulty."""

    name: str
    plugin: P | None
    node: yaml.Node
    found: Mapping[str, Entry]


def load_policy(text: str) -> PolicyDocument:
    """Reads a policy file. Raises PolicyError, which names every fault."""
    problems = ProblemList()
    root = parse(text)
    found = entries(root, "", problems) or {}
    problems.raise_if_any()
    refuse_unknown(found, _KEYS, "", problems)
    name = _name(root, found, problems)
    admission = _section(AdmissionSettings, "admission", found, problems)
    clustering = _section(ClusteringSettings, "clustering", found, problems)
    dispatch = _section(DispatchSettings, "dispatch", found, problems)
    replication = _section(ReplicationSettings, "replication", found, problems)
    placement = _placement(root, found, problems)
    problems.raise_if_any()
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return PolicyDocument(text, Policy(name, digest, admission, clustering, placement, dispatch, replication))


def _name(root: yaml.Node, found: Mapping[str, Entry], problems: ProblemList) -> str:
    if "name" not in found:
        problems.add(root, "name", "is missing: give the policy a name")
        return ""
    node = found["name"].value
    value = scalar(node)
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    problems.add(node, "name", "must be text of at most 64 letters, digits, `.`, `_` and `-`")
    return ""


def _section(kind: type[T], key: str, found: Mapping[str, Entry], problems: ProblemList) -> T:
    section = entries(found[key].value, key, problems) if key in found else {}
    return decode_settings(kind, section or {}, key, problems) or kind()


def _placement(root: yaml.Node, found: Mapping[str, Entry], problems: ProblemList) -> PlacementPolicy:
    default = Profile()
    filters = default.filters
    if "filters" in found:
        filters = tuple(each.plugin for each in _plugins(FILTERS, "filters", found, problems) if each.plugin)
    picker: Picker = default.picker
    if "picker" in found:
        picker = _plugin(PICKERS, found["picker"].value, "picker", problems).plugin or picker
    scorers: tuple[WeightedScorer, ...] = ()
    if "scorers" in found:
        scorers = _scorers(found, problems)
    else:
        problems.add(root, "scorers", "is missing: name at least one scorer with a weight")
    return PlacementPolicy(Profile(filters, scorers, picker))


def _scorers(found: Mapping[str, Entry], problems: ProblemList) -> tuple[WeightedScorer, ...]:
    plugins = _plugins(SCORERS, "scorers", found, problems, other_keys=("weight",))
    weighted, is_faulty = [], False
    for index, each in enumerate(plugins):
        path = f"scorers[{index}].weight"
        if "weight" not in each.found:
            if each.name:
                problems.add(each.node, path, "is missing: say how much the scorer counts, such as `weight: 1`")
            is_faulty = True
            continue
        weight = decode_number(float, _WEIGHT, each.found["weight"].value, path, problems)
        if weight is None or each.plugin is None:
            is_faulty = True
        else:
            weighted.append(WeightedScorer(each.plugin, weight))
    if not is_faulty and not any(each.weight > 0 for each in weighted):
        problems.add(found["scorers"].value, "scorers", "must hold at least one scorer with a weight above 0")
    return tuple(weighted)


def _plugins(
    registry: Mapping[str, type[P]],
    key: str,
    found: Mapping[str, Entry],
    problems: ProblemList,
    *,
    other_keys: tuple[str, ...] = (),
) -> list[_Plugin[P]]:
    plugins: list[_Plugin[P]] = []
    first_line: dict[str, int] = {}
    for index, node in enumerate(items(found[key].value, key, problems) or ()):
        path = f"{key}[{index}]"
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
    plugin = decode_settings(registry[value], found, path, problems, other_keys=("name", *other_keys))
    return _Plugin(value, plugin, node, found)
