"""`multitude status` and `multitude policy`."""

from pathlib import Path

import click

from multitude.cli.config import Connection


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
            "up" if w.is_attached else "away",
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
    policy_state = f", file not applied: {fleet.policy.pending_error}" if fleet.policy.pending_error else ""
    connection.output.line(
        f"{fleet.num_queued} queued, {fleet.num_dispatched} on workers; policy {fleet.policy.name}{policy_state}; "
        f"redis {'reachable' if fleet.is_state_store_reachable else 'away (serving goes on)'}"
    )


@click.group()
def policy() -> None:
    """Look after the placement policy."""


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_context
def check(context: click.Context, file: Path) -> None:
    """Check a policy FILE without applying it; exit code 2 if it is bad."""
    connection: Connection = context.obj
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8 text: {error}") from error
    with connection.client() as client:
        problems = client.check_policy(text)
    if connection.output.as_json:
        connection.output.document({"file": str(file), "problems": list(problems)})
    elif not problems:
        connection.output.line(f"{file}: good")
    for problem in problems if not connection.output.as_json else ():
        place = f"{file}:{problem.line}" if problem.line else str(file)
        connection.output.line(
            f"{place}: {problem.path}: {problem.message}" if problem.path else f"{place}: {problem.message}"
        )
    context.exit(2 if problems else 0)


@policy.command()
@click.pass_obj
def show(connection: Connection) -> None:
    """Print the policy in force."""
    with connection.client() as client:
        in_force = client.fleet().policy
    if connection.output.as_json:
        connection.output.document(in_force)
        return
    connection.output.line(in_force.yaml.rstrip("\n"))
