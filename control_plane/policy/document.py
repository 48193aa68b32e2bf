"""From a policy file's text to a policy, or to everything that is wrong with it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from control_plane.core.demand import ReplicationSettings
from control_plane.core.policy import AdmissionSettings, ClusteringSettings, DispatchSettings, Policy
from control_plane.policy.problems import PolicyError, PolicyProblem, ProblemList
from control_plane.policy.profiles import PROFILE_KEYS, decode_placement
from control_plane.policy.settings import decode_name, decode_settings
from control_plane.policy.tenants import decode_fairness
from control_plane.policy.tree import Entry, entries, parse, refuse_unknown
from control_plane.policy.warnings import policy_warnings

__all__ = ["PolicyDocument", "PolicyError", "PolicyProblem", "load_policy"]

_KEYS = ("name", "admission", "clustering", *PROFILE_KEYS, "profiles", "replication", "dispatch", "fairness")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A good policy file: its text and the policy that it makes."""

    text: str
    policy: Policy


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
    policy = Policy(name, digest, admission, clustering, placement, dispatch, replication, fairness)
    for warning in policy_warnings(policy):
        if warning.starves:
            section = warning.path.partition(".")[0]
            problems.add(found[section].value if section in found else root, warning.path, warning.message)
    problems.raise_if_any()
    return PolicyDocument(text, policy)


def _section(kind: type[T], key: str, found: Mapping[str, Entry], problems: ProblemList) -> T:
    section = entries(found[key].value, key, problems) if key in found else {}
    return decode_settings(kind, section or {}, key, problems) or kind()
