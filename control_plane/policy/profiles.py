"""The profiles of a policy file: the flat one, those of the list, and what they take from each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from control_plane.core.placement.plugin import Filter, Picker
from control_plane.core.placement.policy import PlacementPolicy, SelectedProfile, Selector
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.policy.plugins import decode_filters, decode_picker, decode_scorers
from control_plane.policy.problems import ProblemList
from control_plane.policy.selectors import decode_selector
from control_plane.policy.settings import decode_name
from control_plane.policy.tree import Entry, entries, items, joined, refuse_unknown, scalar, suggestion

PROFILE_KEYS = ("filters", "scorers", "picker")

_DEFAULT = "default"
_MAX_PROFILES = 100


@dataclass(frozen=True, slots=True)
class _Draft:
    """A profile as it stands in the file; None for what it takes from the profile that it extends."""

    name: str
    path: str
    node: yaml.Node
    extends: yaml.Node | None = None
    when: Selector | None = None
    filters: tuple[Filter, ...] | None = None
    scorers: tuple[WeightedScorer, ...] | None = None
    picker: Picker | None = None


@dataclass(frozen=True, slots=True)
class PlacementSection:
    """The placement policy of a file, and where the filters of each of its profiles stand, if they stand in it."""

    policy: PlacementPolicy
    filters_at: Mapping[str, str]


def decode_placement(root: yaml.Node, found: Mapping[str, Entry], problems: ProblemList) -> PlacementSection:
    """The placement policy of a file; of no use if there are problems."""
    drafts: dict[str, _Draft] = {}
    if "profiles" not in found or any(key in found for key in PROFILE_KEYS):
        drafts[_DEFAULT] = _draft(_DEFAULT, root, "", found, problems)
    if "profiles" in found:
        _read_list(found["profiles"].value, drafts, problems)
    chains = {name: _chain(draft, drafts, problems) for name, draft in drafts.items()}
    profiles = {name: _profile(chain, problems) for name, chain in chains.items()}
    _refuse_unused(drafts, problems)
    if _DEFAULT not in profiles:
        node = found["profiles"].value
        problems.add(node, "profiles", "no profile is named `default`: add one, for the requests of no other profile")
        return PlacementSection(PlacementPolicy(), {})
    selected = tuple(
        SelectedProfile(draft.when, profiles[name]) for name, draft in drafts.items() if draft.when is not None
    )
    owners = {name: next((each for each in chain if each.filters is not None), None) for name, chain in chains.items()}
    filters_at = {name: joined(owner.path, "filters") for name, owner in owners.items() if owner is not None}
    return PlacementSection(PlacementPolicy(profiles[_DEFAULT], selected), filters_at)


def _read_list(node: yaml.Node, drafts: dict[str, _Draft], problems: ProblemList) -> None:
    nodes = items(node, "profiles", problems) or []
    if len(nodes) > _MAX_PROFILES:
        problems.add(node, "profiles", f"there are {len(nodes)} profiles: at most {_MAX_PROFILES} are read")
    for index, each in enumerate(nodes[:_MAX_PROFILES]):
        path = f"profiles[{index}]"
        found = entries(each, path, problems)
        if found is None:
            continue
        refuse_unknown(found, ("name", "extends", "when", *PROFILE_KEYS), path, problems)
        name = decode_name(each, found, path, problems, noun="profile")
        draft = _draft(name, each, path, found, problems)
        if name in drafts:
            first = drafts[name].path or "the file's own filters, scorers or picker"
            problems.add(each, joined(path, "name"), f"`{name}` is taken by {first}: choose another name")
        elif name:
            drafts[name] = draft


def _draft(name: str, node: yaml.Node, path: str, found: Mapping[str, Entry], problems: ProblemList) -> _Draft:
    def value(key: str) -> tuple[yaml.Node, str] | None:
        return (found[key].value, joined(path, key)) if key in found else None

    filters, scorers, picker = (value(key) for key in PROFILE_KEYS)
    when = value("when") if path else None
    if when is not None and name == _DEFAULT:
        problems.add(found["when"].key, when[1], "is not for the default profile, which has the requests of no other")
    return _Draft(
        name,
        path,
        node,
        extends=found["extends"].value if path and "extends" in found else None,
        when=decode_selector(*when, problems) if when is not None else None,
        filters=decode_filters(*filters, problems) if filters is not None else None,
        scorers=decode_scorers(*scorers, problems) if scorers is not None else None,
        picker=decode_picker(*picker, problems) if picker is not None else None,
    )


def _chain(draft: _Draft, drafts: Mapping[str, _Draft], problems: ProblemList) -> tuple[_Draft, ...]:
    """A profile, the one that it extends, and so on."""
    chain = [draft]
    while (node := chain[-1].extends) is not None:
        name, path = scalar(node), joined(chain[-1].path, "extends")
        if not isinstance(name, str) or name not in drafts:
            # Whoever extends this profile would say the same again.
            if len(chain) == 1:
                shown = name if isinstance(name, str) else ""
                problems.add(node, path, f"there is no profile `{shown}`: {suggestion(shown, drafts)}")
            break
        if any(each.name == name for each in chain):
            if name == draft.name:
                circle = " → ".join([*(each.name for each in chain), name])
                problems.add(node, path, f"the profile extends itself: {circle}")
            break
        chain.append(drafts[name])
    return tuple(chain)


def _profile(chain: tuple[_Draft, ...], problems: ProblemList) -> Profile:
    draft, default = chain[0], Profile()
    filters = next((each.filters for each in chain if each.filters is not None), default.filters)
    picker = next((each.picker for each in chain if each.picker is not None), default.picker)
    scorers = next((each.scorers for each in chain if each.scorers is not None), None)
    if scorers is None and chain[-1].extends is None:
        problems.add(draft.node, joined(draft.path, "scorers"), "is missing: name at least one scorer with a weight")
    return Profile(filters, scorers or (), picker, draft.name)


def _refuse_unused(drafts: Mapping[str, _Draft], problems: ProblemList) -> None:
    extended = {scalar(draft.extends) for draft in drafts.values() if draft.extends is not None}
    for name, draft in drafts.items():
        when = joined(draft.path, "when")
        is_used = draft.when is not None or name in extended or name == _DEFAULT
        if not is_used and not problems.has_fault_below(when):
            problems.add(draft.node, when, "is missing: say which requests the profile is for")
