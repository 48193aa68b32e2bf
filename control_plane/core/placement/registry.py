"""Every filter, scorer and picker that a policy file can name."""

from control_plane.core.placement.filters.adapter_fits import AdapterFits
from control_plane.core.placement.filters.base_model import BaseModel
from control_plane.core.placement.filters.drain import Drain
from control_plane.core.placement.filters.has_room import HasRoom
from control_plane.core.placement.filters.health import Health
from control_plane.core.placement.filters.labels import Labels
from control_plane.core.placement.filters.lease import Lease
from control_plane.core.placement.filters.max_load import MaxLoad
from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.placement.filters.sequence_fits import SequenceFits
from control_plane.core.placement.filters.tenants import Tenants
from control_plane.core.placement.pickers.max_score import MaxScore
from control_plane.core.placement.pickers.power_of_two import PowerOfTwo
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.plugin import Filter, Picker, Scorer
from control_plane.core.placement.scorers.adapter_residency import AdapterResidency
from control_plane.core.placement.scorers.consolidate import Consolidate
from control_plane.core.placement.scorers.first_token import FirstToken
from control_plane.core.placement.scorers.free_pages import FreePages
from control_plane.core.placement.scorers.home import Home
from control_plane.core.placement.scorers.load import Load
from control_plane.core.placement.scorers.load_spread import LoadSpread
from control_plane.core.placement.scorers.pending_prefill import PendingPrefill
from control_plane.core.placement.scorers.prefix_affinity import PrefixAffinity
from control_plane.core.placement.scorers.queue_depth import QueueDepth
from control_plane.core.placement.scorers.rank_fit import RankFit

FILTERS: dict[str, type[Filter]] = {
    "adapter_fits": AdapterFits,
    "base_model": BaseModel,
    "drain": Drain,
    "has_room": HasRoom,
    "health": Health,
    "labels": Labels,
    "lease": Lease,
    "max_load": MaxLoad,
    "min_free_pages": MinFreePages,
    "sequence_fits": SequenceFits,
    "tenants": Tenants,
}

SCORERS: dict[str, type[Scorer]] = {
    "adapter_residency": AdapterResidency,
    "consolidate": Consolidate,
    "first_token": FirstToken,
    "free_pages": FreePages,
    "home": Home,
    "load": Load,
    "load_spread": LoadSpread,
    "pending_prefill": PendingPrefill,
    "prefix_affinity": PrefixAffinity,
    "queue_depth": QueueDepth,
    "rank_fit": RankFit,
}

PICKERS: dict[str, type[Picker]] = {
    "max_score": MaxScore,
    "power_of_two": PowerOfTwo,
    "weighted_random": WeightedRandom,
}
