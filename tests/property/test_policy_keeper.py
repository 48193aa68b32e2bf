"""Policies applied and rolled back on any control plane, with a shared state that is away or loses everything."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from control_plane.core.policy import Policy
from control_plane.errors import PolicyVersionNotFound, StateUnavailable
from control_plane.runtime.policy_file import PolicyFile
from control_plane.runtime.policy_keeper import PolicyKeeper
from control_plane.state.policies import AppliedPolicy
from control_plane.state.store import StateAway


def text_of(name: str) -> str:
    return f"name: {name}\nscorers: [{{name: load, weight: 1}}]\n"


class Shared:
    """The history, as the scripts in Redis keep it."""

    is_configured = True

    def __init__(self) -> None:
        self.is_away = False
        self.versions: list[tuple[AppliedPolicy, str]] = []

    def _answer(self) -> None:
        if self.is_away:
            raise StateAway

    async def newest(self) -> AppliedPolicy | None:
        self._answer()
        return self.versions[-1][0] if self.versions else None

    async def history(self) -> tuple[AppliedPolicy, ...]:
        self._answer()
        return tuple(applied for applied, _ in reversed(self.versions))

    async def text(self, version: int) -> str | None:
        self._answer()
        return next((text for applied, text in self.versions if applied.version == version), None)

    async def apply(self, policy: AppliedPolicy, text: str) -> AppliedPolicy:
        self._answer()
        newest = self.versions[-1][0].version if self.versions else 0
        version = max(policy.version, newest) + 1
        applied = AppliedPolicy(
            version, policy.name, policy.digest, policy.applied_ms, policy.control_plane_id, policy.restored_version
        )
        self.versions.append((applied, text))
        return applied

    async def restore(self, policy: AppliedPolicy, text: str) -> None:
        self._answer()
        if not self.versions or self.versions[-1][0].version < policy.version:
            self.versions.append((policy, text))


class Keeper:
    """A control plane's keeper, and what its director was told last."""

    def __init__(self, shared: Shared, file: Path) -> None:
        self.in_director = "file"
        self.keeper = PolicyKeeper(
            PolicyFile(file),
            shared,  # type: ignore[arg-type]
            control_plane_id="x",
            on_change=self.take,
            wall_ms=lambda: 0,
        )

    def take(self, policy: Policy) -> None:
        self.in_director = policy.name


class PolicyMachine(RuleBasedStateMachine):
    """`names` is what each version holds, None for the files; `origins` the version that first had it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        file = Path(self.folder.name) / "policy.yaml"
        file.write_text(text_of("file"))
        self.shared = Shared()
        self.keepers = [Keeper(self.shared, file), Keeper(self.shared, file)]
        self.names: dict[int, str | None] = {}
        self.origins: dict[int, int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    def added(self, applied: AppliedPolicy, name: str | None, origin: int | None) -> None:
        assert applied.version == max(self.names, default=0) + 1
        self.names[applied.version] = name
        self.origins[applied.version] = applied.version if origin is None else origin

    @rule(index=st.integers(0, 1), name=st.sampled_from("abc"))
    def apply(self, index: int, name: str) -> None:
        call = self.keepers[index].keeper.apply(text_of(name))
        if self.shared.is_away:
            with pytest.raises(StateUnavailable):
                asyncio.run(call)
        else:
            self.added(asyncio.run(call), name, None)

    @precondition(lambda self: not self.shared.is_away and self.shared.versions)
    @rule(index=st.integers(0, 1))
    def roll_back(self, index: int) -> None:
        kept = [applied.version for applied, _ in self.shared.versions]
        origin = self.origins[kept[-1]]
        target = max((v for v in kept if v < origin and self.origins[v] == v), default=0)
        applied = asyncio.run(self.keepers[index].keeper.roll_back(None))
        self.added(applied, self.names.get(target), target)
        assert applied.restored_version == target

    @precondition(lambda self: not self.shared.is_away)
    @rule(index=st.integers(0, 1), version=st.integers(0, 12))
    def roll_back_to(self, index: int, version: int) -> None:
        call = self.keepers[index].keeper.roll_back(version)
        if version and version not in {applied.version for applied, _ in self.shared.versions}:
            with pytest.raises(PolicyVersionNotFound):
                asyncio.run(call)
        else:
            self.added(asyncio.run(call), self.names.get(version), self.origins.get(version, 0))

    @rule()
    def go_away(self) -> None:
        self.shared.is_away = True

    @rule(has_lost=st.booleans())
    def come_back(self, has_lost: bool) -> None:
        # Whoever has the newest version has taken it up before everything is lost.
        if has_lost and not self.shared.is_away:
            self.settle()
            self.shared.versions.clear()
        self.shared.is_away = False
        self.settle()

    @precondition(lambda self: not self.shared.is_away)
    @rule()
    def settle(self) -> None:
        """All agree, and with the newest version."""
        for keeper in self.keepers * 2:
            asyncio.run(keeper.keeper.catch_up())
        newest = max(self.names, default=0)
        expected = self.names.get(newest) or "file"
        for keeper in self.keepers:
            in_force = keeper.keeper.in_force
            assert (in_force.name, keeper.in_director) == (expected, expected)
            assert in_force.version == (newest if self.names.get(newest) else 0)
            assert not in_force.pending_error


PolicyMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestPolicies = PolicyMachine.TestCase
