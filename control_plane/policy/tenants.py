"""Reads how service is divided among tenants."""

from collections.abc import Mapping
from dataclasses import replace

import yaml

from control_plane.core.policy import FairnessSettings, TenantSettings
from control_plane.policy.problems import ProblemList
from control_plane.policy.settings import decode_settings
from control_plane.policy.tree import Entry, entries, items, scalar

_PATH = "fairness"
_MAX_NAME = 256


def decode_fairness(found: Mapping[str, Entry], problems: ProblemList) -> FairnessSettings:
    """The section `fairness`: settings for all tenants, and those of the tenants that `tenants` names."""
    section = entries(found[_PATH].value, _PATH, problems) if _PATH in found else {}
    named = dict(section or {})
    tenants_entry = named.pop("tenants", None)
    settings = decode_settings(FairnessSettings, named, _PATH, problems) or FairnessSettings()
    if tenants_entry is None:
        return settings
    path = f"{_PATH}.tenants"
    tenants: list[TenantSettings] = []
    first_line: dict[str, int] = {}
    for index, node in enumerate(items(tenants_entry.value, path, problems) or ()):
        tenant_path, line = f"{path}[{index}]", node.start_mark.line + 1
        mapping = entries(node, tenant_path, problems)
        if mapping is None:
            continue
        name_entry = mapping.pop("name", None)
        name = _name(name_entry.value, tenant_path, problems) if name_entry is not None else ""
        tenant = decode_settings(TenantSettings, mapping, tenant_path, problems)
        if name_entry is None:
            problems.add(node, f"{tenant_path}.name", "is missing: name the tenant")
        elif name and first_line.setdefault(name, line) != line:
            problems.add(node, tenant_path, f"`{name}` is named twice, first on line {first_line[name]}: keep one")
        elif name and tenant is not None:
            tenants.append(replace(tenant, name=name))
    return replace(settings, tenants=tuple(tenants))


def _name(node: yaml.Node, path: str, problems: ProblemList) -> str:
    value = scalar(node)
    if isinstance(value, str) and 0 < len(value) <= _MAX_NAME:
        return value
    problems.add(node, f"{path}.name", f"must be text of at most {_MAX_NAME} characters; put a number in quotes")
    return ""
