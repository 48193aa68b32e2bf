"""Where adapters are on this worker: host memory and page pool seen as one, with what changed for each onlooker."""

from collections.abc import Iterable, Mapping

from worker.types import ResidencyTier


class ResidencyChanges:
    """What one onlooker has yet to hear. It hears everything first."""

    def __init__(self) -> None:
        self.digests: set[str] = set()
        self.is_snapshot_due = True


class ResidencyBoard:
    """The tier of each adapter version: the pool's if it is there, else host memory's."""

    def __init__(self) -> None:
        self._in_pool: set[str] = set()
        self._in_host: set[str] = set()
        self._onlookers: set[ResidencyChanges] = set()

    def watch(self) -> ResidencyChanges:
        """Adds an onlooker."""
        changes = ResidencyChanges()
        self._onlookers.add(changes)
        return changes

    def unwatch(self, changes: ResidencyChanges) -> None:
        """Takes an onlooker away."""
        self._onlookers.discard(changes)

    def set_pool(self, digest: str, *, resident: bool) -> None:
        """An adapter entered or left the pool."""
        self._set(self._in_pool, digest, resident=resident)

    def set_host(self, digest: str, *, resident: bool) -> None:
        """An adapter entered or left host memory."""
        self._set(self._in_host, digest, resident=resident)

    def tier(self, digest: str) -> ResidencyTier:
        """Where an adapter is."""
        if digest in self._in_pool:
            return ResidencyTier.POOL
        return ResidencyTier.HOST if digest in self._in_host else ResidencyTier.NONE

    def take(self, changes: ResidencyChanges) -> Mapping[str, ResidencyTier]:
        """Everything if the onlooker's snapshot is due, else what changed since it took last."""
        if changes.is_snapshot_due:
            tiers = self._tiers(sorted(self._in_pool | self._in_host))
        else:
            tiers = self._tiers(sorted(changes.digests))
        changes.digests.clear()
        changes.is_snapshot_due = False
        return tiers

    def _tiers(self, digests: Iterable[str]) -> dict[str, ResidencyTier]:
        return {digest: self.tier(digest) for digest in digests}

    def _set(self, place: set[str], digest: str, *, resident: bool) -> None:
        if resident == (digest in place):
            return
        if resident:
            place.add(digest)
        else:
            place.discard(digest)
        for onlooker in self._onlookers:
            onlooker.digests.add(digest)
