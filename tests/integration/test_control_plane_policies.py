"""Policies that change as requests are served: the file's, and those applied through Redis to every replica."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from control_plane.core.policy import Policy
from control_plane.policy.document import PolicyDocument, load_policy
from control_plane.runtime.policy_file import PolicyFile
from control_plane.state.keys import Keys
from multitude.v1 import fleet_pb2
from tests.unit.control_shell.fake_worker import LENGTH, FakeWorker, token
from tests.unit.control_shell.redis_server import RedisServer, running_redis
from tests.unit.control_shell.running import Caller, error_info, eventually, serving
from tests.unit.control_shell.tiny_model import write_model

POLICY = "name: {name}\nscorers: [{{name: load, weight: 1}}]\n"
KEYS = Keys("f")
APPLIED, FILE, BUILT_IN = (
    fleet_pb2.POLICY_SOURCE_APPLIED,
    fleet_pb2.POLICY_SOURCE_FILE,
    fleet_pb2.POLICY_SOURCE_BUILT_IN,
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, decode_responses=True) as client:
        await client.flushall()
        yield client


def shared(server: RedisServer, **settings: object) -> dict[str, object]:
    return {"url": server.url, "fleet": "f", "publish_interval_s": 0.02, "timeout_s": 10, **settings}


async def apply(caller: Caller, name: str) -> fleet_pb2.AppliedPolicy:
    request = fleet_pb2.ApplyPolicyRequest(yaml=POLICY.format(name=name))
    return (await caller.fleet.ApplyPolicy(request)).applied


async def roll_back(caller: Caller, version: int | None = None) -> fleet_pb2.AppliedPolicy:
    return (await caller.fleet.RollBackPolicy(fleet_pb2.RollBackPolicyRequest(version=version))).applied


async def history(caller: Caller) -> list[tuple[int, str]]:
    reply = await caller.fleet.ListPolicies(fleet_pb2.ListPoliciesRequest())
    return [(applied.version, applied.name) for applied in reply.policies]


async def in_force(caller: Caller, name: str, version: int) -> fleet_pb2.PolicyVersion:
    fleet = await caller.fleet_is(lambda fleet: (fleet.policy.name, fleet.policy.version) == (name, version))
    return fleet.policy


async def refused(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_info(caught.value).reason, str(caught.value.details())


async def test_a_good_policy_comes_into_force_and_a_bad_one_does_not(
    model_path: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format(name="first"))
    async with (
        FakeWorker("a", is_generous=True) as worker,
        serving(
            model_path, policy_file=file, redis=shared(redis_server), workers={"addresses": (worker.address,)}
        ) as caller,
    ):
        assert (await caller.get_fleet()).policy.name == "first"
        file.write_text(POLICY.format(name="second"))
        fleet = await caller.fleet_is(lambda fleet: fleet.policy.name == "second")
        assert fleet.policy.yaml == file.read_text()
        for bad in ("name: third\nscorers: [{name: nonsense, weight: 1}]\n", "name: [\n", "\xff\x00"):
            file.write_bytes(bad.encode("latin-1"))
            fleet = await caller.fleet_is(lambda fleet: bool(fleet.policy.pending_error))
            assert fleet.policy.name == "second"
            file.write_text(POLICY.format(name="second"))
            await caller.fleet_is(lambda fleet: not fleet.policy.pending_error)
        file.unlink()
        fleet = await caller.fleet_is(lambda fleet: "cannot be read" in fleet.policy.pending_error)
        assert len((await caller.generate(max_tokens=3)).token_ids) == 3
        assert await redis.exists(KEYS.policies) == 0


async def test_an_applied_policy_reaches_every_control_plane_and_wins_over_their_files(
    model_path: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format(name="of-the-file"))
    settings = {"redis": shared(redis_server), "policy_file": file}
    async with (
        serving(model_path, control_plane_id="one", **settings) as first,
        serving(model_path, control_plane_id="two", redis=shared(redis_server)) as second,
    ):
        applied = await apply(first, "spread")
        assert (applied.version, applied.control_plane_id) == (1, "one")
        assert applied.apply_time.ToMilliseconds() > 1_700_000_000_000
        # Who was asked has it when it answers.
        policy = (await first.get_fleet()).policy
        assert (policy.name, policy.version, policy.source, policy.shadowed_file) == ("spread", 1, APPLIED, str(file))
        policy = await in_force(second, "spread", 1)
        assert (policy.yaml, policy.shadowed_file) == (POLICY.format(name="spread"), "")
        file.write_text(POLICY.format(name="edited"))
        await apply(second, "consolidate")
        await in_force(first, "consolidate", 2)
        fleet = await first.fleet_is(lambda fleet: [v.policy_version for v in fleet.control_planes] == [2, 2])
        assert [view.control_plane_id for view in fleet.control_planes] == ["one", "two"]
        # A control plane that starts later has the version from its first moment.
        async with serving(model_path, **settings) as third:
            assert (await third.get_fleet()).policy.version == 2
        assert await history(first) == [(2, "consolidate"), (1, "spread")]
        again = await roll_back(second)
        assert (again.version, again.restored_version, again.name) == (3, 1, "spread")
        await in_force(first, "spread", 3)
        # Back again goes further back, to the files: version 1 replaced them.
        back = await roll_back(first)
        assert (back.version, back.restored_version, back.digest) == (4, 0, "")
        policy = (await first.get_fleet()).policy
        assert (policy.name, policy.version, policy.source) == ("edited", 0, FILE)
        assert (await second.fleet_is(lambda fleet: not fleet.policy.version)).policy.source == BUILT_IN
        await roll_back(first, 2)
        await in_force(second, "consolidate", 5)
        page = await first.fleet.ListPolicies(fleet_pb2.ListPoliciesRequest(page_size=2))
        assert ([each.version for each in page.policies], page.next_page_token) == ([5, 4], "3")
        page = await first.fleet.ListPolicies(fleet_pb2.ListPoliciesRequest(page_token="3", page_size=9))
        assert ([each.version for each in page.policies], page.next_page_token) == ([3, 2, 1], "")


async def test_a_policy_is_applied_without_disturbing_a_stream(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, redis=shared(redis_server), workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        running = asyncio.create_task(caller.generate((1,), max_tokens=6))
        request = await stream.next_request()
        await stream.send_tokens(request, 0, 2)
        await apply(caller, "spread")
        await stream.send_tokens(request, 2, 4)
        await roll_back(caller, 0)
        await stream.send_tokens(request, 4, 6, LENGTH)
        assert (await running).token_ids == [token((1,), index) for index in range(6)]
        assert worker.streams.empty()


async def test_policies_applied_at_once_get_a_version_each_and_all_end_with_the_last(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        serving(model_path, redis=shared(redis_server)) as first,
        serving(model_path, redis=shared(redis_server)) as second,
    ):
        names = [f"number-{number}" for number in range(10)]
        callers = [first, second] * 5
        applied = await asyncio.gather(*(apply(*each) for each in zip(callers, names, strict=True)))
        assert sorted(each.version for each in applied) == list(range(1, 11))
        last = next(each for each in applied if each.version == 10)
        for caller in (first, second):
            assert (await in_force(caller, last.name, 10)).digest == last.digest


async def test_what_cannot_be_applied_is_refused_by_name(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with serving(model_path, redis=shared(redis_server)) as caller:
        for yaml, problem in (
            (
                "name: x\nscorers:\n  - {name: nonsense, weight: 1}\n",
                "line 3: scorers[0].name: `nonsense`",
            ),
            ("name: x\nscorers:\n  - name: load\n    weight: heavy\n", "line 4: scorers[0].weight: must be a number"),
            ("name: [\n", "line 2: this is not YAML"),
            ("", "the file is empty"),
        ):
            code, reason, message = await refused(caller.fleet.ApplyPolicy(fleet_pb2.ApplyPolicyRequest(yaml=yaml)))
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID")
            assert problem in message
        request = fleet_pb2.RollBackPolicyRequest()
        code, reason, _ = await refused(caller.fleet.RollBackPolicy(request))
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "POLICY_VERSION_NOT_FOUND")
        await apply(caller, "spread")
        _, reason, message = await refused(caller.fleet.RollBackPolicy(fleet_pb2.RollBackPolicyRequest(version=7)))
        assert (reason, "there are 1, and 0" in message) == ("POLICY_VERSION_NOT_FOUND", True)
        for page in ({"page_size": -1}, {"page_token": "x"}):
            _, reason, _ = await refused(caller.fleet.ListPolicies(fleet_pb2.ListPoliciesRequest(**page)))
            assert reason == "PAGE_INVALID"
        assert await history(caller) == [(1, "spread")]


async def test_without_redis_nothing_can_be_applied(model_path: Path) -> None:
    async with serving(model_path) as caller:
        for call in (
            caller.fleet.ApplyPolicy(fleet_pb2.ApplyPolicyRequest(yaml=POLICY.format(name="x"))),
            caller.fleet.RollBackPolicy(fleet_pb2.RollBackPolicyRequest(version=1)),
            caller.fleet.ListPolicies(fleet_pb2.ListPoliciesRequest()),
        ):
            code, reason, _ = await refused(call)
            assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_NOT_CONFIGURED")
        assert (await caller.get_fleet()).policy.source == BUILT_IN


async def test_a_redis_that_goes_away_leaves_the_policy_and_gets_it_back(model_path: Path) -> None:
    with running_redis() as server:
        async with (
            serving(model_path, redis=shared(server)) as first,
            serving(model_path, redis=shared(server)) as second,
        ):
            await apply(first, "one")
            await apply(first, "two")
            await in_force(second, "two", 2)
            server.kill()
            request = fleet_pb2.ApplyPolicyRequest(yaml=POLICY.format(name="three"))
            code, reason, _ = await refused(first.fleet.ApplyPolicy(request))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STATE_UNAVAILABLE")
            fleet = await first.fleet_is(lambda fleet: not fleet.is_state_store_reachable)
            assert (fleet.policy.name, len(fleet.control_planes)) == ("two", 1)
            # It comes back empty, and is told what is in force; numbers go on where they were.
            server.start()

            async def restored() -> bool | None:
                async with Redis.from_url(server.url, decode_responses=True) as redis:
                    return True if await redis.get(f"{KEYS.policy_text_prefix}2") else None

            await eventually(restored)
            assert await history(second) == [(2, "two")]
            assert (await apply(second, "three")).version == 3
            await in_force(first, "three", 3)


async def test_a_control_plane_starts_without_redis_and_takes_up_what_was_applied_once_it_is_there(
    model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format(name="of-the-file"))
    with running_redis() as server:
        server.kill()
        async with serving(model_path, redis=shared(server), policy_file=file) as first:
            assert (await first.get_fleet()).policy.name == "of-the-file"
            server.start()
            async with serving(model_path, redis=shared(server)) as second:
                await second.fleet_is(lambda fleet: fleet.is_state_store_reachable)
                await apply(second, "spread")
            policy = await in_force(first, "spread", 1)
            assert policy.shadowed_file == str(file)


async def test_an_applied_policy_that_this_control_plane_does_not_understand_is_told_of(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with serving(model_path, redis=shared(redis_server)) as caller:
        await apply(caller, "spread")
        # As a newer control plane would apply it.
        text = "name: next\nscorers: [{name: of-the-future, weight: 1}]\n"
        entry = (await redis.lindex(KEYS.policies, 0)).replace('"version":1', '"version":2').replace("spread", "next")
        await redis.set(f"{KEYS.policy_text_prefix}2", text)
        await redis.lpush(KEYS.policies, entry)
        fleet = await caller.fleet_is(lambda fleet: bool(fleet.policy.pending_error))
        assert (fleet.policy.name, fleet.policy.version) == ("spread", 1)
        assert "version 2 cannot be taken up here: line 2: scorers[0].name" in fleet.policy.pending_error
        await apply(caller, "good")
        assert not (await in_force(caller, "good", 3)).pending_error


async def test_only_so_many_versions_are_remembered(model_path: Path, redis: Redis, redis_server: RedisServer) -> None:
    async with serving(model_path, redis=shared(redis_server, policy_history=3)) as caller:
        for number in range(6):
            await apply(caller, f"number-{number}")
        assert [version for version, _ in await history(caller)] == [6, 5, 4]
        assert len([key async for key in redis.scan_iter(match=f"{KEYS.policy_text_prefix}*")]) == 3
        assert (await roll_back(caller)).restored_version == 5


async def test_a_policy_is_checked_without_being_applied(model_path: Path) -> None:
    async with serving(model_path) as caller:
        good = await caller.fleet.CheckPolicy(fleet_pb2.CheckPolicyRequest(yaml=POLICY.format(name="x")))
        assert not good.problems
        assert not good.warnings
        doubtful = POLICY.format(name="x") + "\nclustering: {max_age_s: 9}\n"
        doubtful += "admission: {default_first_token_deadline_s: 6}\n"
        doubted = await caller.fleet.CheckPolicy(fleet_pb2.CheckPolicyRequest(yaml=doubtful))
        assert not doubted.problems
        assert [warning.path for warning in doubted.warnings] == ["clustering.max_age_s"]
        bad = await caller.fleet.CheckPolicy(
            fleet_pb2.CheckPolicyRequest(yaml="name: x\nscorers:\n  - {name: nonsense, weight: 1}\n")
        )
        assert [(problem.line, problem.path) for problem in bad.problems] == [(3, "scorers[0].name")]
        assert (await caller.get_fleet()).policy.name == "built-in"


async def test_a_check_doubts_a_deadline_that_the_fleets_measured_rate_cannot_meet(model_path: Path) -> None:
    yaml = POLICY.format(name="x") + "admission:\n  max_queued: 9\n  default_first_token_deadline_s: 0.000001\n"

    async def doubts(caller: Caller) -> list[tuple[str, str]]:
        reply = await caller.fleet.CheckPolicy(fleet_pb2.CheckPolicyRequest(yaml=yaml))
        assert not reply.problems
        lines = yaml.splitlines()
        return [(each.path, lines[each.line - 1].strip()) for each in reply.warnings]

    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        always = [
            ("admission.max_queued_per_tenant", "max_queued: 9"),
            ("admission.overtaking_s", "default_first_token_deadline_s: 0.000001"),
            ("clustering.max_age_s", "default_first_token_deadline_s: 0.000001"),
            ("dispatch.retry_delay_s", "default_first_token_deadline_s: 0.000001"),
        ]
        assert sorted(await doubts(caller)) == always
        running = asyncio.create_task(caller.generate((1,), max_tokens=1))
        request = await stream.next_request()
        await stream.send_status(pending_prefill_token_count=5, prefill_token_count=0)
        await stream.send_status(pending_prefill_token_count=4, prefill_token_count=1)
        await stream.send_tokens(request, 0, 1, LENGTH)
        await running
        slow = ("admission.default_first_token_deadline_s", "default_first_token_deadline_s: 0.000001")
        assert slow in await doubts(caller)


async def test_a_changed_file_is_read_while_tokens_are_relayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(name="first"))
    file = PolicyFile(path)
    loop, is_relayed = asyncio.get_running_loop(), threading.Event()

    def slow(text: str) -> PolicyDocument:
        loop.call_soon_threadsafe(is_relayed.set)
        assert is_relayed.wait(10), "nothing else ran meanwhile"
        return load_policy(text)

    monkeypatch.setattr("control_plane.runtime.policy_file.load_policy", slow)
    path.write_text(POLICY.format(name="second"))
    document = await file.refresh()
    assert document is not None
    assert document.policy.name == "second"


def test_the_built_in_policy_is_the_defaults() -> None:
    policy = PolicyFile(None).document.policy
    assert policy == Policy("built-in", policy.digest)
