"""`multitude status` and `multitude drain`."""

import click

from multitude.cli.config import Connection
from multitude.types import Policy, PolicySource


@click.command()
@click.pass_obj
def status(connection: Connection) -> None:
    """Show workers, queues and the policy in force."""
    with connection.client() as client:
        fleet = client.fleet()
    if connection.output.as_json:
        connection.output.document(fleet)
        return
    rows = [
        (
            w.worker_id,
            w.address,
            ("draining" if w.is_draining else "up") if w.is_attached else "away",
            f"{w.num_dispatched}/{w.request_window}",
            w.num_running,
            f"{w.kv_pages} kv + {w.adapter_pages} adapters of {w.total_pages}",
            sum(tier == "pool" for tier in w.resident.values()),
            sum(tier == "host" for tier in w.resident.values()),
            f"{w.step_ms:.1f} ms",
            w.num_preemptions,
        )
        for w in fleet.workers
    ]
    columns = (
        "worker",
        "address",
        "",
        "requests",
        "running #",
        "pages",
        "in pool #",
        "in host #",
        "step",
        "preempted #",
    )
    connection.output.table(columns, rows, empty="no workers")
    if len(fleet.control_planes) > 1:
        views = [
            (v.control_plane_id, v.address, v.num_in_flight, v.policy_version or "file", v.policy_digest[:19])
            for v in fleet.control_planes
        ]
        connection.output.table(("control plane", "address", "in flight #", "policy #", "digest"), views, empty="")
    connection.output.line(
        f"{fleet.num_queued} queued, {fleet.num_dispatched} on workers; "
        f"redis {'reachable' if fleet.is_state_store_reachable else 'away (serving goes on)'}"
    )
    connection.output.line(f"policy {_where(fleet.policy)}")
    if fleet.policy.pending_error:
        connection.output.line(f"refused, the policy in force stays: {fleet.policy.pending_error}")


@click.command()
@click.argument("worker")
@click.option("--off", "is_over", is_flag=True, help="Put it back in service.")
@click.pass_obj
def drain(connection: Connection, worker: str, *, is_over: bool) -> None:
    """Take WORKER, an id as in `status`, out of service: it gets no new request, and what runs there ends there."""
    with connection.client() as client:
        is_attached = client.drain_worker(worker, is_draining=not is_over)
    if connection.output.as_json:
        connection.output.document({"worker_id": worker, "is_draining": not is_over, "is_attached": is_attached})
        return
    connection.output.line(f"{worker}: {'back in service' if is_over else 'gets no new request'}")
    if not is_attached:
        connection.output.warning(f"{worker}: no such worker is attached now; this holds for it when it comes")


def _where(policy: Policy) -> str:
    """The policy in force and what it comes from."""
    if policy.source is not PolicySource.APPLIED:
        return f"{policy.name}, {'built in' if policy.source is PolicySource.BUILT_IN else 'from the policy file'}"
    wins = f", wins over {policy.shadowed_file} (multitude policy rollback 0 ends that)" if policy.shadowed_file else ""
    return f"{policy.name}, applied as version {policy.version}{wins}"
