"""Which requests a profile is for, as it stands in a policy file."""

import yaml

from control_plane.core.placement.policy import Selector
from control_plane.core.settings import Bounds
from control_plane.policy.problems import ProblemList
from control_plane.policy.settings import decode_flag, decode_number, decode_texts
from control_plane.policy.tree import entries, joined, refuse_unknown

_PRIORITY = Bounds(-(2**31), 2**31 - 1)
_KEYS = ("tenants", "adapters", "base_only", "min_priority", "max_priority")


def decode_selector(node: yaml.Node, path: str, problems: ProblemList) -> Selector | None:
    """The selector; None, and a problem for each fault, if it has one."""
    found = entries(node, path, problems)
    if found is None:
        return None
    refuse_unknown(found, _KEYS, path, problems, noun="condition")
    if not found:
        problems.add(node, path, "must hold at least one condition, such as `tenants: acme`")
    nodes = {name: (entry.value, joined(path, name)) for name, entry in found.items()}
    tenants, adapters = (
        decode_texts(*nodes[name], problems) or () if name in nodes else () for name in ("tenants", "adapters")
    )
    low, high = (
        decode_number(int, _PRIORITY, *nodes[name], problems) if name in nodes else None
        for name in ("min_priority", "max_priority")
    )
    is_base_only = "base_only" in nodes and decode_flag(*nodes["base_only"], problems) is True
    if low is not None and high is not None and low > high:
        problems.add(*nodes["max_priority"], f"is {high}, below min_priority, which is {low}: no request matches")
    if is_base_only and adapters:
        problems.add(*nodes["adapters"], "matches nothing beside base_only: requests of the base model have no adapter")
    return Selector(tenants, adapters, low, high, is_base_only)
