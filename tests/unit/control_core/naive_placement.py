"""What the placement plugins mean, one worker at a time and without columns: the judge of the vectorised ones."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

from control_plane.core.fleet import Fleet, Worker
from control_plane.core.placement.filters.tenants import TenantMode
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.profile import Profile
from control_plane.core.types import ResidencyTier

Verdict = Callable[[Any, PlacementRequest, Worker, Fleet], bool]
# Of one worker; the list holds all that the filters left.
Left = list[Worker]
Scoring = Callable[[Any, PlacementRequest, Worker, Left], float]


def adapter_fits(plugin: Any, asked: PlacementRequest, worker: Worker, fleet: Fleet) -> bool:
    status = worker.status
    if asked.adapter is None or status.page_size_bytes <= 0:
        return True
    return math.ceil(asked.adapter.size_bytes / status.page_size_bytes) <= status.total_pages * (1.0 - plugin.headroom)


def sequence_fits(plugin: Any, asked: PlacementRequest, worker: Worker, fleet: Fleet) -> bool:
    status = worker.status
    if status.page_size_bytes <= 0 or status.block_size <= 0:
        return True
    num_pages = math.ceil(asked.num_tokens / status.block_size)
    if asked.adapter is not None:
        num_pages += math.ceil(asked.adapter.size_bytes / status.page_size_bytes)
    return num_pages <= status.total_pages


def tenants(plugin: Any, asked: PlacementRequest, worker: Worker, fleet: Fleet) -> bool:
    named, tenant = worker.status.tenants, asked.request.tenant
    if plugin.mode is TenantMode.OWN and any(tenant in each.status.tenants for each in fleet):
        return tenant in named
    return not named or tenant in named


def health(plugin: Any, asked: PlacementRequest, worker: Worker, fleet: Fleet) -> bool:
    silence_s = asked.now - worker._columns.reported_at[worker.row]
    return silence_s <= plugin.max_silence_s and worker.num_failures(asked.now) < plugin.max_failures


def adapter_residency(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    if asked.adapter is None:
        return 1.0
    tier = worker.tier(asked.adapter.digest)
    return {ResidencyTier.POOL: plugin.pool, ResidencyTier.HOST: plugin.host, ResidencyTier.NONE: 0.0}[tier]


def free_pages(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    status = worker.status
    if status.total_pages <= 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - status.kv_pages / status.total_pages))


def consolidate(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    if worker.load <= plugin.target:
        return worker.load / plugin.target
    return (1.0 - worker.load) / (1.0 - plugin.target)


def rank_fit(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    if asked.adapter is None or worker.mean_log2_rank is None:
        return 1.0
    distance = abs(math.log2(max(1, asked.adapter.rank)) - worker.mean_log2_rank)
    return max(0.0, 1.0 - distance / plugin.octaves)


def first_token(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    columns = worker._columns
    rates = [rate for rate in columns.prefill_tokens_per_s.tolist() if rate > 0]
    expected = 0.0
    if rates:
        rate = worker.prefill_rate.tokens_per_s or sum(rates) / len(rates)
        expected += (worker.pending_prefill_tokens + asked.num_prefill_tokens) / rate
    tier = worker.tier(asked.adapter.digest) if asked.adapter else ResidencyTier.POOL
    expected += columns.predictor.service_s(asked.request, 0.0, tier)
    return float(plugin.seconds / (plugin.seconds + expected))


def load_spread(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    loads = [each.load for each in left]
    if not loads or min(loads) == max(loads):
        return 1.0
    return min(1.0, max(0.0, (max(loads) - worker.load) / (max(loads) - min(loads))))


def home(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    if asked.adapter is None:
        return 1.0
    mean = sum(each.load for each in left) / len(left) if left else 0.0
    calm = [
        each for each in left if len(left) == 1 or each.load <= plugin.bound * mean + plugin.slack / max(each.window, 1)
    ]
    demand = worker._columns.demand
    count = demand.num_workers(asked.adapter.digest, asked.now)
    ranked = sorted(calm, key=lambda each: -_mixed(_number(each.worker_id) ^ _number(asked.adapter.digest)))
    return float(worker in ranked[:count])


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mixed(number: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        number ^= number >> 33
        number = number * factor % 2**64
    return number ^ number >> 33


def prefix_affinity(plugin: Any, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    # The memory itself has its own judge, in test_prefixes.py.
    columns = worker._columns
    return float(columns.prefixes.shares(asked.request, columns.num_rows)[worker.row])


FILTERS: dict[str, Verdict] = {
    "adapter_fits": adapter_fits,
    "base_model": lambda plugin, asked, worker, fleet: asked.request.base_model in ("", worker.status.base_model),
    "drain": lambda plugin, asked, worker, fleet: not worker.is_draining and worker.status.request_window > 0,
    "has_room": lambda plugin, asked, worker, fleet: len(worker.in_flight) < worker.window,
    "health": health,
    "labels": lambda plugin, asked, worker, fleet: all(
        dict(worker.status.labels).get(key) in values for key, values in plugin.match.values_of
    ),
    "lease": lambda plugin, asked, worker, fleet: worker.has_lease,
    "max_load": lambda plugin, asked, worker, fleet: worker.load < plugin.load,
    "min_free_pages": lambda plugin, asked, worker, fleet: (
        worker.status.total_pages - worker.status.kv_pages >= plugin.share * worker.status.total_pages
    ),
    "sequence_fits": sequence_fits,
    "tenants": tenants,
}

SCORERS: dict[str, Scoring] = {
    "adapter_residency": adapter_residency,
    "consolidate": consolidate,
    "first_token": first_token,
    "free_pages": free_pages,
    "home": home,
    "load": lambda plugin, asked, worker, left: 1.0 - worker.load,
    "load_spread": load_spread,
    "pending_prefill": lambda plugin, asked, worker, left: (
        plugin.tokens / (plugin.tokens + worker.pending_prefill_tokens)
    ),
    "prefix_affinity": prefix_affinity,
    "queue_depth": lambda plugin, asked, worker, left: (
        plugin.requests
        / (plugin.requests + max(len(worker.in_flight), worker.status.num_running + worker.status.num_waiting))
    ),
    "rank_fit": rank_fit,
}


def refused_by(profile: Profile, asked: PlacementRequest, worker: Worker, fleet: Fleet) -> list[str]:
    """The filters that refuse a worker, of those that are asked of one that has room or not."""
    return [each.name for each in profile.asked if not FILTERS[each.name](each, asked, worker, fleet)]


def total(profile: Profile, asked: PlacementRequest, worker: Worker, left: Left) -> float:
    """The weighted mean of a worker's scores."""
    weighted = total_weight = 0.0
    for each in profile.scorers:
        weighted += each.weight * SCORERS[each.scorer.name](each.scorer, asked, worker, left)
        total_weight += each.weight
    return weighted / total_weight


def left_by(profile: Profile, asked: PlacementRequest, fleet: Fleet) -> Left:
    """The workers with a free place that no filter refuses."""
    return [each for each in fleet if len(each.in_flight) < each.window and not refused_by(profile, asked, each, fleet)]


def emptied_by(profile: Profile, asked: PlacementRequest, fleet: Fleet) -> str | None:
    """The filter that refuses the last worker with a free place; or the last at all, if none is in service."""
    is_any_in_service = any(each.window > 0 for each in fleet)
    left = [each for each in fleet if len(each.in_flight) < each.window or not is_any_in_service]
    if not left:
        return "has_room" if len(fleet) else None
    for plugin in profile.asked:
        left = [each for each in left if FILTERS[plugin.name](plugin, asked, each, fleet)]
        if not left:
            return plugin.name
    return None
