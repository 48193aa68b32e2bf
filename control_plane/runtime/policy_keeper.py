"""Which policy is in force: the newest that was applied to the fleet, or else the control plane's own file."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from control_plane.core.policy import Policy
from control_plane.errors import PolicyInvalid, PolicyVersionNotFound, StateNotConfigured, StateUnavailable
from control_plane.policy.document import PolicyDocument, PolicyError, load_policy
from control_plane.runtime.policy_file import PolicyFile
from control_plane.state.policies import FILES, AppliedPolicies, AppliedPolicy
from control_plane.state.store import StateAway
from control_plane.types import PolicySource, PolicyVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Taken:
    """An applied version that was taken up; without a document it gave the file back its place."""

    applied: AppliedPolicy
    document: PolicyDocument | None


class PolicyKeeper:
    """Follows the file and the versions in Redis, and applies new versions.

    An applied version wins over the file, for every control plane and after every restart, until version 0 is rolled
    back to. While Redis is away the version in force stays; a Redis that has lost it is given it again.
    """

    def __init__(
        self,
        file: PolicyFile,
        applied: AppliedPolicies,
        *,
        control_plane_id: str,
        on_change: Callable[[Policy], None],
        wall_ms: Callable[[], int],
    ) -> None:
        """`on_change` gets each policy that comes into force; `wall_ms` is the time of day in ms since the epoch."""
        self._file = file
        self._applied = applied
        self._control_plane_id = control_plane_id
        self._on_change = on_change
        self._wall_ms = wall_ms
        self._taken: _Taken | None = None
        self._problem = ""
        self._refused: AppliedPolicy | None = None
        self._digest = file.document.policy.digest

    @property
    def in_force(self) -> PolicyVersion:
        """The policy in force, and what is not."""
        document, path = self._document, str(self._file.path or "")
        if self._taken is not None and self._taken.document is not None:
            source, version, shadowed = PolicySource.APPLIED, self._taken.applied.version, path
        else:
            source, version, shadowed = PolicySource.FILE if path else PolicySource.BUILT_IN, FILES, ""
        policy = document.policy
        problem = self._problem or self._file.problem
        return PolicyVersion(policy.name, policy.digest, document.text, problem, version, source, shadowed)

    async def watch_file(self, interval_s: float) -> None:
        """Looks at the file for ever."""
        while True:
            await asyncio.sleep(interval_s)
            if await self._file.refresh() is not None:
                self._settle()

    async def follow(self, interval_s: float) -> None:
        """Looks for newer versions for ever."""
        while True:
            await self.catch_up()
            await asyncio.sleep(interval_s)

    async def catch_up(self) -> None:
        """Takes up the newest version, or puts back the one in force if Redis has lost it; nothing if it is away."""
        try:
            newest, mine = await self._applied.newest(), self._taken
            if mine is not None and (newest is None or newest.version < mine.applied.version):
                await self._applied.restore(mine.applied, mine.document.text if mine.document else "")
            elif newest is not None and newest not in (mine and mine.applied, self._refused):
                await self._take_up(newest)
        except StateAway:
            return

    async def apply(self, text: str) -> AppliedPolicy:
        """Makes a text the fleet's policy. Raises PolicyInvalid, StateNotConfigured, StateUnavailable."""
        return await self._apply(await _load(text), None)

    async def history(self) -> tuple[AppliedPolicy, ...]:
        """The versions that are remembered, newest first. Raises StateNotConfigured, StateUnavailable."""
        self._expect_configured()
        try:
            return await self._applied.history()
        except StateAway:
            raise _unavailable() from None

    async def roll_back(self, version: int | None) -> AppliedPolicy:
        """Applies an earlier version again; None for the one before the version in force, 0 for the files.

        Raises PolicyVersionNotFound and what `apply` raises.
        """
        history = await self.history()
        if version is None:
            version = _previous(history)
        if version == FILES:
            return await self._apply(None, FILES)
        found = next((applied for applied in history if applied.version == version), None)
        try:
            text = await self._applied.text(version) if found else None
        except StateAway:
            raise _unavailable() from None
        if found is None or text is None:
            known = ", ".join(str(applied.version) for applied in reversed(history)) or "none"
            raise PolicyVersionNotFound(
                f"version: {version} is not remembered; there are {known}, and 0 for the policy files",
                metadata={"field": "version"},
            )
        return await self._apply(await _load(text) if found.digest else None, found.origin)

    async def _apply(self, document: PolicyDocument | None, restored_version: int | None) -> AppliedPolicy:
        self._expect_configured()
        draft = AppliedPolicy(
            version=self._taken.applied.version if self._taken else FILES,
            name=document.policy.name if document else "",
            digest=document.policy.digest if document else "",
            applied_ms=self._wall_ms(),
            control_plane_id=self._control_plane_id,
            restored_version=restored_version,
        )
        try:
            applied = await self._applied.apply(draft, document.text if document else "")
        except StateAway:
            raise _unavailable() from None
        if self._taken is None or self._taken.applied.version < applied.version:
            self._taken, self._problem = _Taken(applied, document), ""
            self._settle()
        return applied

    async def _take_up(self, newest: AppliedPolicy) -> None:
        document = None
        if newest.digest:
            text = await self._applied.text(newest.version)
            if text is None:
                return  # replaced meanwhile; the next look finds by what
            try:
                document = await asyncio.to_thread(load_policy, text)
            except PolicyError as error:
                self._problem = f"version {newest.version} cannot be taken up here: {error}"
                logger.error("the applied policy is not taken up, the running policy stays: %s", self._problem)  # noqa: TRY400
                self._refused = newest
                return
        self._taken, self._problem, self._refused = _Taken(newest, document), "", None
        self._settle()

    @property
    def _document(self) -> PolicyDocument:
        taken = self._taken.document if self._taken else None
        return taken or self._file.document

    def _settle(self) -> None:
        """Brings what is in force now into force."""
        policy = self._document.policy
        if policy.digest != self._digest:
            self._digest = policy.digest
            in_force = self.in_force
            where = f"version {in_force.version}" if in_force.version else in_force.source.value
            logger.info("policy %s (%s, %s) is in force", policy.name, where, policy.digest)
            self._on_change(policy)

    def _expect_configured(self) -> None:
        if not self._applied.is_configured:
            raise StateNotConfigured(
                "this control plane has no Redis to keep applied policies in: set redis.url, or edit its policy_file"
            )


async def _load(text: str) -> PolicyDocument:
    try:
        return await asyncio.to_thread(load_policy, text)
    except PolicyError as error:
        first = error.problems[0]
        raise PolicyInvalid("yaml", str(error), line=str(first.line), path=first.path) from None


def _previous(history: tuple[AppliedPolicy, ...]) -> int:
    """What the version in force replaced, whatever was rolled back since; 0 if nothing older is remembered."""
    if not history:
        raise PolicyVersionNotFound("version: no policy was applied yet: there is nothing to roll back")
    origin = history[0].origin
    older = [applied.version for applied in history if applied.version < origin and applied.restored_version is None]
    return max(older, default=FILES)


def _unavailable() -> StateUnavailable:
    return StateUnavailable(
        "Redis cannot be reached; nothing was changed: try again when it is back", retry_after_s=1.0
    )
