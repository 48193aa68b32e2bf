"""The fleet as it is now, for operators and for Redis."""

from collections.abc import Mapping
from dataclasses import replace

from control_plane.core.snapshot import DirectorSnapshot
from control_plane.types import FleetSnapshot, WorkerSnapshot
from control_plane.workers.directory import Connection


def view_fleet(director: DirectorSnapshot, connections: Mapping[str, Connection]) -> FleetSnapshot:
    """Joins what the director knows of the attached workers with the addresses, those without a worker included."""
    address_of = {
        connection.status.worker_id: address for address, connection in connections.items() if connection.status
    }
    attached = [
        WorkerSnapshot(
            address=address_of.get(worker.status.worker_id, ""),
            worker_id=worker.status.worker_id,
            status=replace(worker.status, residency=tuple(sorted(worker.residency, key=_digest))),
            num_dispatched=worker.num_in_flight,
            is_draining=worker.is_draining,
        )
        for worker in director.workers
    ]
    absent = [
        WorkerSnapshot(address=address, worker_id="", status=None, num_dispatched=0)
        for address, connection in sorted(connections.items())
        if connection.status is None
    ]
    return FleetSnapshot(
        workers=(*attached, *absent), num_queued=director.num_queued, num_dispatched=director.num_dispatched
    )


def _digest(entry: tuple[str, object]) -> str:
    return entry[0]
