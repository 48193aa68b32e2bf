"""From a policy file's text to a policy, or to everything that is wrong with it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import yaml

from control_plane.core.demand import ReplicationSettings
from control_plane.core.policy import AdmissionSettings, ClusteringSettings, DispatchSettings, Policy
from control_plane.policy.problems import PolicyError, PolicyProblem, ProblemList
from control_plane.policy.profiles import PROFILE_KEYS, decode_placement
from control_plane.policy.settings import decode_name, decode_settings
from control_plane.policy.tenants import decode_fairness
from control_plane.policy.tree import Entry, entries, find, parse, refuse_unknown
from control_plane.policy.warnings import MeasuredService, PolicyWarning, policy_warnings

__all__ = ["PolicyDocument", "PolicyError", "PolicyProblem", "load_policy"]

_KEYS = ("name", "admission", "clustering", *PROFILE_KEYS, "profiles", "replication", "dispatch", "fairness")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A good policy file: its text, the policy that it makes, and where the filters of its profiles stand."""

    text: str
    policy: Policy
    filters_at: Mapping[str, str] = field(default_factory=dict)

    def doubts(self, measured: MeasuredService | None = None) -> tuple[PolicyProblem, ...]:
        """What the policy would do that its operator hardly wants, by line."""
        warnings = policy_warnings(self.policy, measured, filters_at=self.filters_at)
        if not warnings:
            return ()
        root = parse(self.text)
        found = [PolicyProblem(_line(root, warning), warning.path, warning.message) for warning in warnings]
        return tuple(sorted(found, key=lambda problem: problem.line))


def load_policy(text: str) -> PolicyDocument:
    """Reads a policy file. Raises PolicyError, which names every fault."""
    problems = ProblemList()
    root = parse(text)
    found = entries(root, "", problems) or {}
    problems.raise_if_any()
    refuse_unknown(found, _KEYS, "", problems)
    name = decode_name(root, found, "", problems, noun="policy")
    admission = _section(AdmissionSettings, "admission", found, problems)
    clustering = _section(ClusteringSettings, "clustering", found, problems)
    dispatch = _section(DispatchSettings, "dispatch", found, problems)
    replication = _section(ReplicationSettings, "replication", found, problems)
    fairness = decode_fairness(found, problems)
    placement = decode_placement(root, found, problems)
    problems.raise_if_any()
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    policy = Policy(name, digest, admission, clustering, placement.policy, dispatch, replication, fairness)
    for warning in policy_warnings(policy):
        if warning.starves:
            problems.add(_node(root, warning), warning.path, warning.message)
    problems.raise_if_any()
    return PolicyDocument(text, policy, placement.filters_at)


def _line(root: yaml.Node, warning: PolicyWarning) -> int:
    return int(_node(root, warning).start_mark.line) + 1


def _node(root: yaml.Node, warning: PolicyWarning) -> yaml.Node:
    """The doubtful value; if it is a default, the value that makes it doubtful, or what it would stand in."""
    path = warning.path
    enclosing = [path[: match.start()] for match in re.finditer(r"[.\[]", path)]
    paths = (path, warning.beside, *reversed(enclosing))
    return next((node for each in paths if each and (node := find(root, each)) is not None), root)


def _section(kind: type[T], key: str, found: Mapping[str, Entry], problems: ProblemList) -> T:
    section = entries(found[key].value, key, problems) if key in found else {}
    return decode_settings(kind, section or {}, key, problems) or kind()
