"""The control plane's own policy file, looked at again and again: a bad one is told of, and the last good one stays."""

import asyncio
import hashlib
import logging
from pathlib import Path

from control_plane.core.placement.profile import Profile
from control_plane.policy.document import PolicyDocument, PolicyError, load_policy

logger = logging.getLogger(__name__)


class PolicyFileError(Exception):
    """The policy file cannot be read."""


class PolicyFile:
    """Holds the last good document of the file, or the built-in policy if there is no file."""

    def __init__(self, path: Path | None) -> None:
        """Loads the file. Raises PolicyError, PolicyFileError."""
        self.path = path
        try:
            text = path.read_bytes().decode("utf-8") if path else _built_in()
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyFileError(f"{path} cannot be read: {error}") from error
        self.document = load_policy(text)
        # Why the file as it is now is not the document; empty if it is.
        self.problem = ""
        self._seen_digest = self.document.policy.digest

    async def refresh(self) -> PolicyDocument | None:
        """Looks at the file once; the document if it is a new one."""
        if self.path is None:
            return None
        try:
            data = await asyncio.to_thread(self.path.read_bytes)
        except OSError as error:
            self._refuse("", f"the file cannot be read: {error}")
            return None
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest == self._seen_digest:
            return None
        try:
            # Off the event loop: a long file takes seconds, in which tokens are to be relayed.
            document = await asyncio.to_thread(lambda: load_policy(data.decode("utf-8")))
        except (PolicyError, UnicodeDecodeError) as error:
            self._refuse(digest, str(error))
            return None
        self._seen_digest, self.problem = digest, ""
        self.document = document
        return document

    def _refuse(self, digest: str, problem: str) -> None:
        self._seen_digest = digest
        if problem != self.problem:
            logger.error("the policy file %s is not applied, the running policy stays: %s", self.path, problem)
            self.problem = problem


def _built_in() -> str:
    """In force where no file is named: every default, the scorers written out because a policy must name its own."""
    lines = [f"  - {{name: {each.scorer.name}, weight: {each.weight:g}}}" for each in Profile().scorers]
    return "\n".join(["name: built-in", "scorers:", *lines, ""])
