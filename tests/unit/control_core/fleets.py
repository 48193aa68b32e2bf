"""Fleets that came to be what they are through events, drawn by Hypothesis."""

from hypothesis import strategies as st

from control_plane.core.fleet import Fleet
from control_plane.core.ledger import TrackedRequest
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.types import ResidencyTier
from tests.unit.control_core.makers import adapter, request, worker

WORKER_IDS = st.text("xyz", min_size=1, max_size=3)
NAMES = st.sampled_from(["a", "b", None])
RANKS = st.sampled_from([1, 8, 64])
TIERS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([ResidencyTier.HOST, ResidencyTier.POOL]))

REQUESTS = st.builds(
    lambda name, rank, size: PlacementRequest(request(name=name, rank=rank, size_bytes=size), now=10.0),
    NAMES,
    RANKS,
    st.integers(1, 60_000),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Up to eight workers, after some of them joined, reported, took requests, gave them back and left."""
    fleet = Fleet()
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
        )
        for index in range(draw(st.integers(0, max(0, made.num_free_places)))):
            asked = request(f"{number}-{index}", draw(NAMES), rank=draw(RANKS))
            made.take(TrackedRequest(asked, index, 0.0, 1.0))
        for each in draw(st.lists(st.sampled_from(sorted(made.in_flight)), unique=True)) if made.in_flight else []:
            made.release(made.in_flight[each])
        if draw(st.booleans()):
            made.hint(adapter(draw(st.sampled_from("abcd"))), 1)
        fleet.set_lease(worker_id, is_live=draw(st.sampled_from([True, True, False])), now=0.0)
    return fleet
