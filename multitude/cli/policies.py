"""`multitude policy`."""

import dataclasses
from pathlib import Path

import click

from multitude.cli.config import Connection
from multitude.cli.explain import explain
from multitude.cli.files import FILE, read_text
from multitude.cli.simulate import simulate
from multitude.types import AppliedPolicy, PolicyCheck, PolicyProblem


@click.group()
def policy() -> None:
    """Look after the placement policy."""


policy.add_command(explain)
policy.add_command(simulate)


@policy.command()
@click.argument("file", type=FILE)
@click.pass_context
def check(context: click.Context, file: Path) -> None:
    """Check a policy FILE without applying it; exit code 2 if it is bad, 0 if there are only warnings."""
    connection: Connection = context.obj
    with connection.client() as client:
        found = client.check_policy(read_text(file))
    if connection.output.as_json:
        connection.output.document({"file": str(file), "problems": found.problems, "warnings": found.warnings})
    else:
        _report(connection, file, found)
        if found.is_good:
            connection.output.line(f"{file}: good{', with warnings' if found.warnings else ''}")
    context.exit(0 if found.is_good else 2)


@policy.command()
@click.argument("file", type=FILE)
@click.pass_context
def apply(context: click.Context, file: Path) -> None:
    """Make FILE the policy of every control plane, as a new version; exit code 2, and nothing applied, if it is bad."""
    connection: Connection = context.obj
    text = read_text(file)
    with connection.client() as client:
        found = client.check_policy(text)
        if not connection.output.as_json:
            _report(connection, file, found)
        elif not found.is_good:
            connection.output.document({"file": str(file), "problems": found.problems})
        if not found.is_good:
            context.exit(2)
        applied = client.apply_policy(text)
    if connection.output.as_json:
        connection.output.document({**dataclasses.asdict(applied), "warnings": found.warnings})
    else:
        _print_applied(connection, applied)


@policy.command()
@click.pass_obj
def history(connection: Connection) -> None:
    """List the versions that were applied, newest first; the first is in force."""
    with connection.client() as client:
        versions = list(client.policy_history())
    if connection.output.as_json:
        for version in versions:
            connection.output.document(version)
        return
    rows = [
        (
            version.version,
            f"{version.apply_time:%Y-%m-%d %H:%M:%S}",
            version.name or "(the policy files)",
            version.digest[:19],
            version.control_plane_id,
            "in force" if index == 0 else "",
            "" if version.restored_version is None else f"again version {version.restored_version}",
        )
        for index, version in enumerate(versions)
    ]
    columns = ("version #", "applied (UTC)", "policy", "digest", "control plane", "", "")
    connection.output.table(columns, rows, empty="none was applied: each control plane uses its own file")


@policy.command()
@click.argument("version", type=click.IntRange(min=0), required=False)
@click.pass_obj
def rollback(connection: Connection, version: int | None) -> None:
    """Apply an earlier VERSION again; without one, the version before the one in force. 0: the policy files."""
    with connection.client() as client:
        _print_applied(connection, client.roll_back_policy(version))


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


def _report(connection: Connection, file: Path, found: PolicyCheck) -> None:
    """Prints what is wrong with a policy, and what is doubtful."""
    for problem in found.problems:
        connection.output.line(_where(file, problem))
    for warning in found.warnings:
        connection.output.warning(f"warning: {_where(file, warning)}")


def _where(file: Path, problem: PolicyProblem) -> str:
    place = f"{file}:{problem.line}" if problem.line else str(file)
    return f"{place}: {problem.path}: {problem.message}" if problem.path else f"{place}: {problem.message}"


def _print_applied(connection: Connection, applied: AppliedPolicy) -> None:
    if connection.output.as_json:
        connection.output.document(applied)
        return
    what = f"policy {applied.name}" if applied.digest else "the policy files of the control planes"
    again = f", again version {applied.restored_version}" if applied.restored_version else ""
    verb = "is" if applied.digest else "are"
    connection.output.line(f"{what} {verb} in force as version {applied.version}{again}")
