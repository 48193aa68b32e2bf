"""The requests that wait for a worker, in order, by tenant and by adapter."""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator

from control_plane.core.fairness import Fairness, OrderKey
from control_plane.core.ledger import TrackedRequest
from control_plane.core.shares import TenantShares
from control_plane.core.types import Request

_Heap = list[tuple[OrderKey, str]]

# Turns are counted in steps of this, in seconds, where only the sum of what goes before matters.
_TURN_STEP_S = 0.25


class _Lane:
    """One tenant's waiting requests. Removed requests stay in the heaps until they surface or outnumber the others."""

    def __init__(self) -> None:
        self.order: _Heap = []
        self.groups: dict[str | None, _Heap] = {}


class _Work:
    """The cost of waiting requests, by priority and step of their turns."""

    def __init__(self) -> None:
        self._costs: dict[tuple[int, int], float] = {}
        self._counts: Counter[tuple[int, int]] = Counter()

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self._costs.values())

    def add(self, tracked: TrackedRequest) -> None:
        """A request waits."""
        place = (tracked.request.priority, _step(tracked.turn))
        self._counts[place] += 1
        self._costs[place] = self._costs.get(place, 0.0) + tracked.cost

    def remove(self, tracked: TrackedRequest) -> None:
        """A request does not wait any more."""
        place = (tracked.request.priority, _step(tracked.turn))
        self._counts[place] -= 1
        self._costs[place] -= tracked.cost
        if not self._counts[place]:
            del self._counts[place], self._costs[place]

    def before(self, priority: int, turn: float, *, newest_first: bool) -> float:
        """The cost of what goes before a new request."""
        step = _step(turn)
        return sum(
            cost
            for (other, at), cost in self._costs.items()
            if other > priority or (other == priority and at <= step and not newest_first)
        )


class WaitingQueue:
    """Waiting requests; adding, removing and finding the first cost O(log n).

    A request that no worker could take is parked: it still counts as waiting, but is not in the order until it is
    tried again. Parked requests take turns.
    """

    def __init__(self, fairness: Fairness, shares: TenantShares, *, newest_first: bool) -> None:
        self._fairness = fairness
        self._shares = shares
        self._sign = -1 if newest_first else 1
        self._lanes: dict[str, _Lane] = {}
        self._keys: dict[str, OrderKey] = {}
        self._ordered: dict[str, TrackedRequest] = {}
        self._parked: OrderedDict[str, TrackedRequest] = OrderedDict()
        self._num_of_tenant: Counter[str] = Counter()
        self._work: dict[str, _Work] = {}
        self._num_stale = 0

    def __len__(self) -> int:
        return len(self._ordered) + len(self._parked)

    def __iter__(self) -> Iterator[TrackedRequest]:
        yield from self._ordered.values()
        yield from self._parked.values()

    @property
    def num_parked(self) -> int:
        """Requests that wait for another try."""
        return len(self._parked)

    def key(self, tracked: TrackedRequest) -> OrderKey:
        """Where a request stands in the order; least first."""
        first, priority = self.rank(tracked)
        return (first, priority, self._sign * tracked.turn, self._sign * tracked.number)

    def rank(self, tracked: TrackedRequest) -> tuple[int, int]:
        """The part of the order that clustering keeps: requests that had a place once, then priority."""
        return (0 if tracked.is_requeued else 1, -tracked.request.priority)

    def num_of_tenant(self, tenant: str) -> int:
        """Waiting requests of a tenant."""
        return self._num_of_tenant[tenant]

    @property
    def num_of_largest(self) -> int:
        """Waiting requests of the tenant that has most of them."""
        return max(self._num_of_tenant.values(), default=0)

    @property
    def tenants(self) -> Collection[str]:
        """The tenants that have requests waiting."""
        return self._num_of_tenant.keys()

    def cost_ahead(self, request: Request, turn: float) -> float:
        """The cost of what is served before a new request with this turn."""
        if not self._work:
            return 0.0
        newest_first = self._sign < 0
        before = {
            tenant: work.before(request.priority, turn, newest_first=newest_first)
            for tenant, work in self._work.items()
        }
        total = sum(work.total for work in self._work.values())
        return self._fairness.ahead(request.tenant, before, total)

    def add(self, tracked: TrackedRequest) -> None:
        """Let a request wait."""
        tenant = tracked.request.tenant
        if tenant not in self._num_of_tenant:
            self._fairness.joined(tenant, self._num_of_tenant.keys())
        self._num_of_tenant[tenant] += 1
        self._work.setdefault(tenant, _Work()).add(tracked)
        self._put_in_order(tracked)

    def remove(self, tracked: TrackedRequest) -> None:
        """Take a request out, wherever it is."""
        if self._parked.pop(tracked.request_id, None) is None:
            self._take_from_order(tracked)
        tenant = tracked.request.tenant
        self._work[tenant].remove(tracked)
        self._num_of_tenant[tenant] -= 1
        if not self._num_of_tenant[tenant]:
            del self._num_of_tenant[tenant], self._work[tenant]
            self._fairness.left(tenant)

    def reorder(self, *, newest_first: bool) -> None:
        """Let the newest go first, or the oldest."""
        sign = -1 if newest_first else 1
        if sign != self._sign:
            self._sign = sign
            self._rebuild()

    def reassess(self, turn_of: Callable[[TrackedRequest], float]) -> None:
        """Give every waiting request another turn."""
        self._work = {}
        for tracked in self:
            tracked.turn = turn_of(tracked)
            self._work.setdefault(tracked.request.tenant, _Work()).add(tracked)
        self._rebuild()

    def last_of_largest(self) -> TrackedRequest:
        """The request that goes last of the tenant that has most waiting; there is one."""
        tenant = max(self._num_of_tenant, key=lambda name: (self._num_of_tenant[name], name))
        own = [each for each in self if each.request.tenant == tenant]
        return max(own, key=self.key)

    def park(self, tracked: TrackedRequest) -> None:
        """Take a waiting request out of the order until it is tried again."""
        if tracked.request_id in self._parked:
            self._parked.move_to_end(tracked.request_id)
            return
        self._take_from_order(tracked)
        self._parked[tracked.request_id] = tracked

    def unpark(self, tracked: TrackedRequest) -> None:
        """Put a parked request back in the order."""
        self._put_in_order(self._parked.pop(tracked.request_id))

    def parked(self, limit: int) -> list[TrackedRequest]:
        """The parked requests whose turn it is to be tried."""
        return [tracked for tracked, _ in zip(self._parked.values(), range(limit), strict=False)]

    def head(self) -> TrackedRequest | None:
        """The request that goes first; None also if the one tenant that waits is to leave room for others."""
        heads = {tenant: key for tenant in list(self._lanes) if (key := self._head_of(tenant)) is not None}
        return self._first_of_tenants({tenant: (key, self._lanes[tenant].order) for tenant, key in heads.items()})

    def head_of_adapter(self, digest: str | None, tenant: str | None = None) -> TrackedRequest | None:
        """As `head`, of the requests for an adapter, or for the base model; of one tenant, if one is named."""
        lanes = self._lanes.items() if tenant is None else [(tenant, self._lanes[tenant])]
        heads = {name: (key, lane.groups[digest]) for name, lane in lanes if (key := self._first_key(lane, digest))}
        return self._first_of_tenants(heads)

    @property
    def adapters(self) -> set[str]:
        """The adapters of waiting requests that are not parked, and perhaps of some that were."""
        return {digest for lane in self._lanes.values() for digest in lane.groups if digest is not None}

    def first(self, limit: int) -> list[TrackedRequest]:
        """About the first `limit` requests of the order, whoever's turn it is among tenants."""
        found: _Heap = []
        for lane in self._lanes.values():
            found += self._first_of(lane.order, limit)
        return [self._ordered[request_id] for _, request_id in sorted(found)[:limit]]

    def _first_of_tenants(self, heads: dict[str, tuple[OrderKey, _Heap]]) -> TrackedRequest | None:
        """The first request of the tenant whose turn it is, of those with these keys and heaps."""
        if not heads:
            return None
        tenant = self._fairness.next_tenant({name: key for name, (key, _) in heads.items()})
        tracked = self._ordered[heads[tenant][1][0][1]]
        # One that had a place has a right to it.
        if len(self._num_of_tenant) == 1 and not tracked.is_requeued:
            return tracked if self._shares.leaves_room(tenant) else None
        return tracked

    def _put_in_order(self, tracked: TrackedRequest) -> None:
        key = self.key(tracked)
        lane = self._lanes.setdefault(tracked.request.tenant, _Lane())
        self._keys[tracked.request_id] = key
        self._ordered[tracked.request_id] = tracked
        heapq.heappush(lane.order, (key, tracked.request_id))
        heapq.heappush(lane.groups.setdefault(tracked.digest, []), (key, tracked.request_id))

    def _take_from_order(self, tracked: TrackedRequest) -> None:
        del self._keys[tracked.request_id]
        del self._ordered[tracked.request_id]
        self._num_stale += 1
        if self._num_stale > 2 * len(self._ordered) + 64:
            self._rebuild()

    def _rebuild(self) -> None:
        waiting, self._lanes, self._num_stale = list(self._ordered.values()), {}, 0
        for tracked in waiting:
            self._put_in_order(tracked)

    def _is_stale(self, item: tuple[OrderKey, str]) -> bool:
        return self._keys.get(item[1]) != item[0]

    def _drop_stale(self, heap: _Heap) -> None:
        while heap and self._is_stale(heap[0]):
            heapq.heappop(heap)

    def _head_of(self, tenant: str) -> OrderKey | None:
        lane = self._lanes[tenant]
        self._drop_stale(lane.order)
        if lane.order:
            return lane.order[0][0]
        del self._lanes[tenant]
        return None

    def _first_key(self, lane: _Lane, digest: str | None) -> OrderKey | None:
        group = lane.groups.get(digest)
        if group is None:
            return None
        self._drop_stale(group)
        if group:
            return group[0][0]
        del lane.groups[digest]
        return None

    def _first_of(self, heap: _Heap, limit: int) -> _Heap:
        """The least `limit` items of a heap that are not stale, without changing it."""
        found: _Heap = []
        frontier = [(heap[0], 0)] if heap else []
        while frontier and len(found) < limit:
            item, index = heapq.heappop(frontier)
            # An id parked and put back is in the heap twice under one key.
            if not self._is_stale(item) and (not found or found[-1] != item):
                found.append(item)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heapq.heappush(frontier, (heap[child], child))
        return found


def _step(turn: float) -> int:
    return int(turn / _TURN_STEP_S)
