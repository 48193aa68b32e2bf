"""Placement policies that leave nothing out."""

from control_plane.core.placement.pickers.power_of_two import PowerOfTwo
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.policy import PlacementPolicy, SelectedProfile, Selector
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.core.placement.registry import FILTERS, SCORERS

EVERY_FILTER = tuple(kind() for kind in FILTERS.values())
EVERY_SCORER = tuple(WeightedScorer(kind(), 1.0) for kind in SCORERS.values())

EVERYTHING = PlacementPolicy(Profile(EVERY_FILTER, EVERY_SCORER))
PROFILES = PlacementPolicy(
    Profile(scorers=EVERY_SCORER, picker=WeightedRandom()),
    (
        SelectedProfile(Selector(min_priority=1), Profile(EVERY_FILTER, picker=PowerOfTwo(), name="urgent")),
        SelectedProfile(Selector(is_base_only=True), Profile((), EVERY_SCORER, name="base")),
    ),
)
