"""The policies that operators applied: versions that all control planes of the fleet follow."""

import json
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from control_plane.state.keys import APPLY_POLICY, RESTORE_POLICY, Keys
from control_plane.state.store import StateStore

# The version that stands for the control planes' own files.
FILES = 0


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """One version; without a digest it gave the control planes' own files back their place."""

    version: int
    name: str
    digest: str
    applied_ms: int
    control_plane_id: str
    restored_version: int | None = None

    @property
    def origin(self) -> int:
        """The version that first had this text."""
        return self.version if self.restored_version is None else self.restored_version


class AppliedPolicies:
    """The history in Redis. Every method raises StateAway."""

    def __init__(self, store: StateStore, keys: Keys, max_versions: int) -> None:
        self._store = store
        self._keys = keys
        self._max_versions = max_versions

    @property
    def is_configured(self) -> bool:
        """Whether there is to be any shared state."""
        return self._store.is_configured

    async def newest(self) -> AppliedPolicy | None:
        """The version that all follow; None if none was ever applied."""
        found = await self._store.probe(lambda redis: redis.lrange(self._keys.policies, 0, 0))
        return _decode(found[0]) if found else None

    async def history(self) -> tuple[AppliedPolicy, ...]:
        """All versions that are remembered, newest first."""
        found = await self._store.probe(lambda redis: redis.lrange(self._keys.policies, 0, -1))
        return tuple(map(_decode, found))

    async def text(self, version: int) -> str | None:
        """A version's text; None if it is not remembered."""
        text = await self._store.probe(lambda redis: redis.get(self._text_key(version)))
        return None if text is None else str(text)

    async def apply(self, policy: AppliedPolicy, text: str) -> AppliedPolicy:
        """Adds a version; the one of `policy` is known to be taken, and the next free one is given."""
        version = await self._store.probe(lambda redis: self._apply(redis, policy, text))
        return _decode(json.dumps({**_entry(policy), "version": version}))

    async def restore(self, policy: AppliedPolicy, text: str) -> None:
        """Adds a version again that Redis has lost, unless a newer one is there."""
        keys = (self._keys.policies, self._text_key(policy.version))
        await self._store.probe(lambda redis: redis.eval(RESTORE_POLICY, 2, *keys, json.dumps(_entry(policy)), text))

    async def _apply(self, redis: Redis, policy: AppliedPolicy, text: str) -> int:
        prefix, entry = self._keys.policy_text_prefix, json.dumps(_entry(policy))
        arguments = (entry, text, str(self._max_versions), prefix, str(policy.version))
        return int(await redis.eval(APPLY_POLICY, 1, self._keys.policies, *arguments))

    def _text_key(self, version: int) -> str:
        return f"{self._keys.policy_text_prefix}{version}"


def _entry(policy: AppliedPolicy) -> dict[str, Any]:
    entry = {
        "version": policy.version,
        "name": policy.name,
        "digest": policy.digest,
        "applied_ms": policy.applied_ms,
        "control_plane_id": policy.control_plane_id,
    }
    return entry if policy.restored_version is None else {**entry, "restored_version": policy.restored_version}


def _decode(text: Any) -> AppliedPolicy:
    entry = json.loads(text)
    return AppliedPolicy(
        version=int(entry["version"]),
        name=entry["name"],
        digest=entry["digest"],
        applied_ms=int(entry["applied_ms"]),
        control_plane_id=entry["control_plane_id"],
        restored_version=entry.get("restored_version"),
    )
