"""Catalog and blobs together: what is visible is complete and durable, and what nothing names is removed.

Every method blocks; the server calls them from threads.
"""

import fcntl
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from adapter_store.blobs import BlobReader, Blobs
from adapter_store.catalog import Catalog
from adapter_store.config import Limits
from adapter_store.errors import ConfigInvalid
from adapter_store.peft.directory import canonicalise
from adapter_store.types import Adapter, AdapterPage, BaseModel, Publication, Version

log = logging.getLogger(__name__)


class Library:
    """The adapters of one base model under one folder, for one process at a time."""

    def __init__(self, folder: Path, model: BaseModel, limits: Limits, now_us: Callable[[], int]) -> None:
        """Opens the folder, makes it if needed, and removes what an interrupted process left there.

        Args:
            folder: The store's data_dir.
            model: The base model.
            limits: What is too large.
            now_us: Microseconds since the epoch.

        Raises:
            ConfigInvalid: Another process uses the folder, or it belongs to another base model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._guard = (folder / "lock").open("w")
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._guard.close()
            raise ConfigInvalid(f"data_dir: {folder} is in use by another adapter store; use another") from None
        self.model = model
        self._limits = limits
        self._now_us = now_us
        self._lock = threading.Lock()
        self._blobs = Blobs(folder)
        self._catalog = Catalog(folder / "catalog.sqlite3", model)
        num_removed = self._blobs.collect(self._catalog.digests())
        if num_removed:
            log.warning("removed %d files that an interrupted process left", num_removed)

    def close(self) -> None:
        """Gives the folder back."""
        with self._lock:
            self._catalog.close()
        self._guard.close()

    def publish(self, adapter_id: str, directory: Path, asserted_base_model: str) -> Publication:
        """Makes a PEFT directory a version of an adapter; visible once it is durable, and not before.

        Raises:
            AdapterInvalid: One of its subclasses, for each kind of defect.
            BaseModelMismatch: The adapter belongs to another base model.
            TooManyVersions: The adapter has as many versions as allowed.
        """
        with self._blobs.stage() as staged:
            facts = canonicalise(directory, self.model, asserted_base_model, self._limits, staged)
            staged.make_durable()
            version = Version(
                digest=staged.digest,
                created_at_us=self._now_us(),
                rank=facts.rank,
                target_modules=facts.target_modules,
                size_bytes=staged.size_bytes,
                parameter_count=facts.parameter_count,
            )
            # The blob gets its name before the commit that names it: a crash in between leaves an unnamed blob, which
            # the next start removes, and never a version without weights.
            with self._lock:
                with self._catalog.transaction():
                    created = self._catalog.add(adapter_id, version, max_versions=self._limits.max_versions_per_adapter)
                    self._blobs.adopt(staged)
                adapter = self._catalog.get(adapter_id)
        published = next(known for known in adapter.versions if known.digest == version.digest)
        return Publication(adapter, published, created)

    def get(self, adapter_id: str) -> Adapter:
        """An adapter with all its versions. Raises AdapterNotFound."""
        with self._lock:
            return self._catalog.get(adapter_id)

    def page(self, after: str, prefix: str, size: int) -> AdapterPage:
        """Up to `size` adapters with ids greater than `after` that begin with `prefix`."""
        with self._lock:
            return self._catalog.page(after, prefix, size)

    def delete(self, adapter_id: str, digest: str | None) -> int:
        """Removes one version or the whole adapter, and the weights that no adapter names any more.

        Returns:
            How many versions no adapter names any more.

        Raises:
            AdapterNotFound: There is no such adapter.
            VersionNotFound: The adapter has no such version.
        """
        with self._lock:
            with self._catalog.transaction():
                orphans = self._catalog.delete(adapter_id, digest)
            for orphan in orphans:
                self._blobs.remove(orphan)
        return len(orphans)

    def open_weights(self, digest: str) -> BlobReader:
        """Opens a version's canonical weights; close them.

        Raises:
            VersionNotFound: No adapter has this version.
            BlobCorrupt: The file is damaged.
        """
        with self._lock:
            return self._blobs.open(digest, self._catalog.size_bytes(digest))
