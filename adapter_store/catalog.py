"""Which adapters there are and which versions they have: one SQLite file."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from adapter_store.errors import AdapterNotFound, ConfigInvalid, TooManyVersions, VersionNotFound
from adapter_store.types import Adapter, AdapterPage, BaseModel, Module, Version

SCHEMA = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE versions (
    adapter_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    target_modules TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    parameter_count INTEGER NOT NULL,
    PRIMARY KEY (adapter_id, sequence),
    UNIQUE (adapter_id, digest)
) WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions (digest);
"""
_COLUMNS = "adapter_id, digest, created_at_us, rank, target_modules, size_bytes, parameter_count"
_AFTER_ALL_IDS = "\x7f"  # ids are printable ASCII


class Catalog:
    """Adapters and their versions. Every call is a short transaction; the owner lets one thread in at a time.

    Within an adapter the versions are ordered by when they were first published.
    """

    def __init__(self, path: Path, model: BaseModel) -> None:
        """Opens the catalog, or makes it.

        Raises:
            ConfigInvalid: The catalog was made for another base model, or by a newer version of the store.
        """
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self.transaction():
            self._prepare(path, model)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes durable at the end, or on an exception nothing does."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add(self, adapter_id: str, version: Version, *, max_versions: int) -> bool:
        """Adds a version; in a transaction.

        Returns:
            Whether it is new; a version that the adapter has already keeps its place.

        Raises:
            TooManyVersions: The adapter has `max_versions` others.
        """
        found = self._db.execute(
            """SELECT count(*), coalesce(max(sequence), 0), coalesce(sum(digest = ?), 0)
            FROM versions WHERE adapter_id = ?""",
            (version.digest, adapter_id),
        ).fetchone()
        num_versions, newest, is_there = found
        if is_there:
            return False
        if num_versions >= max_versions:
            raise TooManyVersions(
                f"{adapter_id} has {num_versions} versions, as many as allowed; delete some", adapter_id=adapter_id
            )
        modules = ",".join(module.value for module in version.target_modules)
        self._db.execute(
            f"INSERT INTO versions (sequence, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our columns
            (
                newest + 1,
                adapter_id,
                version.digest,
                version.created_at_us,
                version.rank,
                modules,
                version.size_bytes,
                version.parameter_count,
            ),
        )
        return True

    def get(self, adapter_id: str) -> Adapter:
        """An adapter with all its versions.

        Raises:
            AdapterNotFound: There is none of this id.
        """
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM versions WHERE adapter_id = ? ORDER BY sequence DESC",  # noqa: S608 - our columns
            (adapter_id,),
        ).fetchall()
        if not rows:
            raise AdapterNotFound(f"no adapter is named {adapter_id!r}; list the adapters", adapter_id=adapter_id)
        return Adapter(adapter_id, tuple(_version(row) for row in rows))

    def page(self, after: str, prefix: str, size: int) -> AdapterPage:
        """Up to `size` adapters with their newest versions: ids greater than `after` that begin with `prefix`."""
        rows = self._db.execute(
            f"""SELECT {_COLUMNS} FROM versions AS outermost
            WHERE adapter_id > ? AND adapter_id >= ? AND adapter_id < ?
            AND sequence = (SELECT max(sequence) FROM versions WHERE adapter_id = outermost.adapter_id)
            ORDER BY adapter_id LIMIT ?""",  # noqa: S608 - our columns
            (after, prefix, prefix + _AFTER_ALL_IDS, size + 1),
        ).fetchall()
        adapters = tuple(Adapter(row[0], (_version(row),)) for row in rows[:size])
        return AdapterPage(adapters, next_after=adapters[-1].adapter_id if len(rows) > size else None)

    def delete(self, adapter_id: str, digest: str | None) -> tuple[str, ...]:
        """Removes one version or all; an adapter without versions is gone. In a transaction.

        Returns:
            The digests that no adapter names any more.

        Raises:
            AdapterNotFound: There is no such adapter.
            VersionNotFound: The adapter has no such version.
        """
        digests = [version.digest for version in self.get(adapter_id).versions]
        if digest is not None and digest not in digests:
            raise VersionNotFound(f"{adapter_id} has no version {digest}", adapter_id=adapter_id, digest=digest)
        deleted = digests if digest is None else [digest]
        self._db.executemany(
            "DELETE FROM versions WHERE adapter_id = ? AND digest = ?", [(adapter_id, name) for name in deleted]
        )
        return tuple(name for name in deleted if self._size(name) is None)

    def size_bytes(self, digest: str) -> int:
        """Bytes of a version's weights.

        Raises:
            VersionNotFound: No adapter has it.
        """
        size = self._size(digest)
        if size is None:
            raise VersionNotFound(f"no adapter has a version {digest}; it may have been deleted", digest=digest)
        return size

    def digests(self) -> frozenset[str]:
        """The digests of all versions."""
        return frozenset(row[0] for row in self._db.execute("SELECT DISTINCT digest FROM versions"))

    def _size(self, digest: str) -> int | None:
        row = self._db.execute("SELECT size_bytes FROM versions WHERE digest = ? LIMIT 1", (digest,)).fetchone()
        return None if row is None else int(row[0])

    def _prepare(self, path: Path, model: BaseModel) -> None:
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema > SCHEMA:
            raise ConfigInvalid(
                f"data_dir: {path} was written by a newer version of the store; upgrade, or use another"
            )
        described = json.dumps(asdict(model), sort_keys=True)
        if schema == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('base_model', ?)", (described,))
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        stored = self._db.execute("SELECT value FROM meta WHERE key = 'base_model'").fetchone()[0]
        if stored != described:
            raise ConfigInvalid(
                f"data_dir: {path} holds adapters of base model {json.loads(stored)['name']!r}, of another name or "
                f"other dimensions than model {model.name!r}; use another data_dir, or the model it was made for"
            )


def _version(row: tuple[str, str, int, int, str, int, int]) -> Version:
    _, digest, created_at_us, rank, modules, size_bytes, parameter_count = row
    return Version(
        digest=digest,
        created_at_us=created_at_us,
        rank=rank,
        target_modules=tuple(Module(name) for name in modules.split(",")),
        size_bytes=size_bytes,
        parameter_count=parameter_count,
    )
