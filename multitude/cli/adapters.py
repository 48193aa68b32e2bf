"""`multitude adapters`."""

from pathlib import Path

import click

from multitude.cli.config import Connection
from multitude.types import AdapterVersion, PublishedAdapter


@click.group()
def adapters() -> None:
    """Publish, list and remove adapters."""


@adapters.command()
@click.argument("adapter_id")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--base-model", default="", help="Assert that it was trained on this base model.")
@click.pass_obj
def add(connection: Connection, adapter_id: str, directory: Path, base_model: str) -> None:
    """Upload the PEFT DIRECTORY as ADAPTER_ID, such as team/name."""
    with connection.client() as client:
        _print_published(connection, client.adapters.create(adapter_id, directory, base_model=base_model))


@adapters.command("import")
@click.argument("adapter_id")
@click.argument("source_uri")
@click.option("--base-model", default="", help="Assert that it was trained on this base model.")
@click.pass_obj
def import_(connection: Connection, adapter_id: str, source_uri: str, base_model: str) -> None:
    """Publish what the store can read itself at SOURCE_URI, such as file:///adapters/name."""
    with connection.client() as client:
        _print_published(connection, client.adapters.import_(adapter_id, source_uri, base_model=base_model))


@adapters.command("list")
@click.option("--prefix", default="", help="Only ids that begin so.")
@click.pass_obj
def list_(connection: Connection, prefix: str) -> None:
    """List the adapters."""
    with connection.client() as client:
        found = list(client.adapters.list(id_prefix=prefix))
    if connection.output.as_json:
        for adapter in found:
            connection.output.document(adapter)
        return
    rows = [
        (a.adapter_id, a.latest.rank, " ".join(a.latest.target_modules), _size(a.latest), a.latest.digest[:19])
        for a in found
    ]
    connection.output.table(("adapter", "rank #", "modules", "size #", "version"), rows, empty="no adapters")


@adapters.command()
@click.argument("adapter_id")
@click.pass_obj
def show(connection: Connection, adapter_id: str) -> None:
    """Show an adapter and its versions."""
    with connection.client() as client:
        adapter = client.adapters.get(adapter_id)
    if connection.output.as_json:
        connection.output.document(adapter)
        return
    connection.output.line(f"{adapter.adapter_id} of {adapter.base_model}")
    rows = [
        (f"{v.create_time:%Y-%m-%d %H:%M:%S}", v.rank, " ".join(v.target_modules), _size(v), v.digest)
        for v in adapter.versions
    ]
    connection.output.table(("published (UTC)", "rank #", "modules", "size #", "version"), rows, empty="no versions")


@adapters.command()
@click.argument("adapter_id")
@click.option("--digest", default="", help="One version only.")
@click.pass_obj
def rm(connection: Connection, adapter_id: str, digest: str) -> None:
    """Delete an adapter, or one version of it."""
    with connection.client() as client:
        count = client.adapters.delete(adapter_id, digest=digest)
    if connection.output.as_json:
        connection.output.document({"adapter_id": adapter_id, "deleted_version_count": count})
        return
    connection.output.line(f"deleted {adapter_id}{'@' + digest if digest else ''}")


def _print_published(connection: Connection, published: PublishedAdapter) -> None:
    if connection.output.as_json:
        connection.output.document(published)
        return
    version = published.version
    state = "published" if published.created else "was there already"
    connection.output.line(
        f"{published.adapter.adapter_id} {state}: rank {version.rank}, {' '.join(version.target_modules)}, "
        f"{_size(version)}, {version.digest}"
    )


def _size(version: AdapterVersion) -> str:
    if version.size_bytes < 1 << 20:
        return f"{version.size_bytes / (1 << 10):.0f} KiB"
    return f"{version.size_bytes / (1 << 20):.1f} MiB"
