"""Requests and workers for tests of the core."""

from typing import Any

from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import TrackedRequest
from control_plane.core.placement.plugin import Filter, PlacementRequest, Scorer
from control_plane.core.types import AdapterRef, Request, ResidencyTier, WorkerStatus


def adapter(name: str, *, rank: int = 8, size_bytes: int = 1000) -> AdapterRef:
    return AdapterRef(name, f"sha256:{name}", rank, size_bytes)


def request(
    request_id: str = "r",
    name: str | None = None,
    *,
    rank: int = 8,
    size_bytes: int = 1000,
    num_prompt_tokens: int = 4,
    max_tokens: int = 10,
    deadline_s: float = 0.0,
    priority: int = 0,
    tenant: str = "default",
) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=tuple(range(num_prompt_tokens)),
        max_tokens=max_tokens,
        first_token_deadline_s=deadline_s,
        adapter=adapter(name, rank=rank, size_bytes=size_bytes) if name else None,
        priority=priority,
        tenant=tenant,
    )


def tracked(number: int, name: str | None = None, *, now: float = 0.0, priority: int = 0, tenant: str = "default"):
    return TrackedRequest(request(f"r{number}", name, priority=priority, tenant=tenant), number, now, float("inf"))


def status(worker_id: str = "w", *, window: int = 4, residency: dict[str, ResidencyTier] | None = None, **fields: Any):
    pairs = tuple((f"sha256:{name}", tier) for name, tier in (residency or {}).items())
    values = {"base_model": "base", "total_pages": 100, "page_size_bytes": 1000} | fields
    return WorkerStatus(worker_id, request_window=window, residency=pairs, is_residency_snapshot=True, **values)


def worker(
    worker_id: str = "w",
    *,
    window: int = 4,
    residency: dict[str, ResidencyTier] | None = None,
    fleet: Fleet | None = None,
    now: float = 0.0,
    **fields: Any,
) -> Worker:
    """A worker that has reported, alone if no fleet is named."""
    fleet = fleet if fleet is not None else Fleet()
    fleet.report(status(worker_id, window=window, residency=residency, **fields), now, 0.1)
    made = fleet.get(worker_id)
    assert made is not None
    return made


def admits(plugin: Filter, asked: PlacementRequest, made: Worker) -> bool:
    """What a filter says of one worker."""
    verdicts = plugin.admits(asked, made._columns)
    assert verdicts.shape == (made._columns.num_rows,)
    return bool(verdicts[made.row])


def score(plugin: Scorer, asked: PlacementRequest, made: Worker) -> float:
    """What a scorer says of one worker, if all were left."""
    values = plugin.score(asked, made._columns, made._columns.is_attached)
    assert values.shape == (made._columns.num_rows,)
    return float(values[made.row])


def busy(made: Worker, *names: str | None, rank: int = 8) -> Worker:
    """The worker with one request in flight for each adapter name."""
    for index, name in enumerate(names, start=len(made.in_flight)):
        made.take(TrackedRequest(request(f"busy-{index}", name, rank=rank), index, 0.0, float("inf")))
    return made
