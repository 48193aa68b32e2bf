"""Fleets that came to be what they are through events, drawn by Hypothesis."""

from dataclasses import replace

from hypothesis import strategies as st

from control_plane.core.demand import ReplicationSettings
from control_plane.core.fleet import Fleet
from control_plane.core.ledger import TrackedRequest
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.types import ResidencyTier
from tests.unit.control_core.makers import adapter, request, worker

WORKER_IDS = st.text("xyz", min_size=1, max_size=3)
NAMES = st.sampled_from(["a", "b", None])
RANKS = st.sampled_from([1, 8, 64])
TIERS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([ResidencyTier.HOST, ResidencyTier.POOL]))

TENANTS = st.sampled_from(["t", "u"])
LABELS = st.dictionaries(st.sampled_from(["zone", "gpu"]), st.sampled_from(["a", "x"])).map(
    lambda labels: tuple(sorted(labels.items()))
)
MODELS = st.sampled_from(["base", "base", "other"])
NOW = 10.0

REQUESTS = st.builds(
    lambda name, rank, size, tenant, model: PlacementRequest(
        replace(request(name=name, rank=rank, size_bytes=size, tenant=tenant, num_prompt_tokens=40), base_model=model),
        now=NOW,
    ),
    NAMES,
    RANKS,
    st.integers(1, 60_000),
    TENANTS,
    MODELS | st.just(""),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Up to eight workers, after some of them joined, reported, took requests, gave them back and left."""
    fleet = Fleet()
    fleet.columns.demand.settings = ReplicationSettings(worker_requests_per_s=0.03, max_workers=3)
    for number in range(draw(st.integers(0, 12))):
        worker_id = draw(WORKER_IDS)
        made = fleet.get(worker_id)
        if made is not None and draw(st.booleans()):
            fleet.remove(worker_id, 0.0)
            for each in list(made.in_flight.values()):
                made.release(each)
            continue
        made = worker(
            worker_id,
            fleet=fleet,
            window=draw(st.integers(0, 6)),
            residency=draw(TIERS),
            total_pages=draw(st.integers(0, 50)),
            kv_pages=draw(st.integers(0, 50)),
            page_size_bytes=draw(st.sampled_from([0, 1000])),
            pending_prefill_tokens=draw(st.integers(0, 10_000)),
            num_running=draw(st.integers(0, 20)),
            base_model=draw(MODELS),
            labels=draw(LABELS),
            tenants=tuple(draw(st.sets(TENANTS))),
            num_prefill_tokens=draw(st.integers(0, 1000)),
            now=draw(st.sampled_from([0.0, 5.0, NOW])),
        )
        for index in range(draw(st.integers(0, max(0, made.window - len(made.in_flight))))):
            asked = request(f"{number}-{index}", draw(NAMES), rank=draw(RANKS))
            made.take(TrackedRequest(asked, index, 0.0, 1.0))
            fleet.columns.prefixes.note(replace(asked, prompt_token_ids=tuple(range(40))), made.row)
            fleet.columns.demand.note(asked, NOW)
            tier = draw(st.sampled_from(ResidencyTier))
            fleet.columns.predictor.served(asked, 0.1, tier, draw(st.sampled_from([0.1, 0.5])), 0.5)
        for each in draw(st.lists(st.sampled_from(sorted(made.in_flight)), unique=True)) if made.in_flight else []:
            made.release(made.in_flight[each])
        if draw(st.booleans()):
            made.hint(adapter(draw(st.sampled_from("abcd"))), 1)
        if draw(st.booleans()):
            made.note_failure(draw(st.sampled_from([0.0, NOW])))
        fleet.set_drain(worker_id, is_draining=draw(st.sampled_from([True, False, False])), now=0.0)
        fleet.set_lease(worker_id, is_live=draw(st.sampled_from([True, True, False])), now=0.0)
    return fleet
