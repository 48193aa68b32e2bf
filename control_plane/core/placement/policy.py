"""A placement policy: profiles, and which requests each is for."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.explanation import Explanation
from control_plane.core.placement.plugin import PlacementRequest, Rng
from control_plane.core.placement.profile import Profile
from control_plane.core.rows import Bools
from control_plane.core.types import Request


@dataclass(frozen=True, slots=True)
class Selector:
    """Which requests a profile is for: those that meet every condition; an empty one is no condition.

    Patterns are those of a shell: `*` is any text, `?` any character. Requests of the base model have no adapter, and
    match no pattern of one.
    """

    tenants: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    min_priority: int | None = None
    max_priority: int | None = None
    is_base_only: bool = False

    def matches(self, request: Request) -> bool:
        """Whether a request meets every condition."""
        if self.is_base_only and request.adapter is not None:
            return False
        if self.min_priority is not None and request.priority < self.min_priority:
            return False
        if self.max_priority is not None and request.priority > self.max_priority:
            return False
        if self.tenants and not _matches_any(request.tenant, self.tenants):
            return False
        if not self.adapters:
            return True
        return request.adapter is not None and _matches_any(request.adapter.adapter_id, self.adapters)


@dataclass(frozen=True, slots=True)
class SelectedProfile:
    """A profile for some requests."""

    when: Selector
    profile: Profile


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """The first of `selected` whose selector matches a request places it, else the default profile."""

    default: Profile = field(default_factory=Profile)
    selected: tuple[SelectedProfile, ...] = ()

    def profile_for(self, request: Request) -> Profile:
        """The profile that places a request."""
        for each in self.selected:
            if each.when.matches(request):
                return each.profile
        return self.default

    def choose(self, request: PlacementRequest, fleet: FleetColumns, among: Bools, rng: Rng) -> int | None:
        """The row of the worker that gets the request, of those that `among` holds; None if there is none."""
        return self.profile_for(request.request).choose(request, fleet, among, rng)

    def explain(self, request: PlacementRequest, fleet: FleetColumns, rng: Rng) -> Explanation:
        """The decision of now, and everything that led to it."""
        return self.profile_for(request.request).explain(request, fleet, rng)


def _matches_any(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
