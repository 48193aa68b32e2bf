"""The policy file's watch: a good file comes into force while requests are served, a bad one does not."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from control_plane.core.placement.profile import Profile
from control_plane.core.policy import Policy
from control_plane.policy.document import PolicyError, load_policy
from control_plane.types import PolicyVersion

logger = logging.getLogger(__name__)


class PolicyFileError(Exception):
    """The policy file cannot be read."""


class PolicyFile:
    """Holds the policy in force."""

    def __init__(self, path: Path | None) -> None:
        """Loads the file, or the built-in policy if there is none. Raises PolicyError, PolicyFileError."""
        self._path = path
        try:
            text = path.read_bytes().decode("utf-8") if path else _built_in()
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyFileError(f"{path} cannot be read: {error}") from error
        document = load_policy(text)
        self.policy = document.policy
        self.version = PolicyVersion(name=document.policy.name, digest=document.policy.digest, text=text)
        self._seen_digest = document.policy.digest

    async def watch(self, interval_s: float, on_change: Callable[[Policy], None]) -> None:
        """Looks at the file for ever; `on_change` gets each policy that comes into force."""
        if self._path is None:
            return
        while True:
            await asyncio.sleep(interval_s)
            await self.refresh(on_change)

    async def refresh(self, on_change: Callable[[Policy], None]) -> None:
        """Looks at the file once."""
        assert self._path is not None, "there is no file to look at"
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
        except OSError as error:
            self._refuse("", f"the file cannot be read: {error}")
            return
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest == self._seen_digest:
            return
        try:
            text = data.decode("utf-8")
            document = load_policy(text)
        except (PolicyError, UnicodeDecodeError) as error:
            self._refuse(digest, str(error))
            return
        self._seen_digest = digest
        self.policy = document.policy
        self.version = PolicyVersion(name=document.policy.name, digest=document.policy.digest, text=text)
        logger.info("policy %s (%s) is in force", self.version.name, self.version.digest)
        on_change(document.policy)

    def _refuse(self, digest: str, problem: str) -> None:
        self._seen_digest = digest
        if problem != self.version.pending_error:
            logger.error("the policy file %s is not applied, the running policy stays: %s", self._path, problem)
            self.version = replace(self.version, pending_error=problem)


def _built_in() -> str:
    """In force where no file is named: every default, the scorers written out because a policy must name its own."""
    lines = [f"  - {{name: {each.scorer.name}, weight: {each.weight:g}}}" for each in Profile().scorers]
    return "\n".join(["name: built-in", "scorers:", *lines, ""])
