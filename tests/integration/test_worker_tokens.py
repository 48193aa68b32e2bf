"""A whole worker, engine process and all: what comes over Dispatch is what the engine says when asked directly."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
import torch
from tokenizers import Tokenizer

from multitude.v1 import sampling_pb2, worker_pb2, worker_pb2_grpc
from tests.integration.worker_world import BASE_MODEL, Store, adapter_file, running_store, worker_process, write_model
from tests.unit.worker_server.bench import ControlPlane, request
from worker.engine.config import EngineConfig
from worker.engine.offline import Generation, OfflineEngine
from worker.errors import Code
from worker.model.loader import load_model
from worker.types import AdapterRef, EngineRequest, FinishReason, SamplingParams

FINISH = {
    sampling_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    sampling_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    sampling_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}
PROMPT = tuple("a prompt: 日本".encode())


@dataclass
class World:
    """One worker for all tests here, and the same engine without a worker around it."""

    folder: Path
    tokenizer: Tokenizer
    store: Store
    address: str
    offline: OfflineEngine
    files: dict[str, bytes]

    def direct(self, requests: Sequence[EngineRequest]) -> dict[str, Generation]:
        return self.offline.generate(requests)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("models") / BASE_MODEL
    tokenizer = write_model(folder)
    model = load_model(folder, torch.float32, torch.device("cpu"))
    files = {name: adapter_file(seed, rank) for seed, (name, rank) in enumerate([("a", 1), ("b", 3), ("c", 8)])}
    config = EngineConfig(context_length=model.config.context_length)
    with (
        running_store() as store,
        worker_process(model__path=folder, store_address=store.address, status_interval_s=0.25) as worker,
        OfflineEngine(model, config, pool_bytes=1 << 20, host_bytes=1 << 20) as offline,
    ):
        yield World(folder, tokenizer, store, worker.wait_ready(), offline, files)


@pytest.fixture
async def control_plane(world: World) -> AsyncIterator[ControlPlane]:
    async with grpc.aio.insecure_channel(world.address) as channel:
        control_plane = ControlPlane(worker_pb2_grpc.WorkerServiceStub(channel).Dispatch())
        await control_plane.attach(base_model=BASE_MODEL)
        yield control_plane


@dataclass
class Said:
    """All that came of one request."""

    token_ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: FinishReason | None = None


@dataclass
class Answers:
    """All that came on a stream until every request of it had ended."""

    said: dict[str, Said]
    failed: dict[str, worker_pb2.RequestFailure]
    residency: list[worker_pb2.Residency]


async def answers(control_plane: ControlPlane, request_ids: Sequence[str]) -> Answers:
    found = Answers({request_id: Said([], "", []) for request_id in request_ids}, {}, [])
    open_ids = set(request_ids)
    while open_ids:
        message = await control_plane.read()
        found.residency += message.status.residency
        for failure in (*message.ack.rejected, *message.step.failures):
            found.failed[failure.request_id] = failure
            open_ids.remove(failure.request_id)
        for output in message.step.outputs:
            said = found.said[output.request_id]
            said.token_ids += output.token_ids
            said.text += output.text
            said.logprobs += [position.chosen.logprob for position in output.logprobs]
            said.finish_reason = FINISH.get(output.finish_reason)
            if said.finish_reason:
                open_ids.remove(output.request_id)
        if message.HasField("step"):
            await control_plane.credit(1)
    return found


def to_proto(ref: AdapterRef) -> worker_pb2.AdapterRef:
    return worker_pb2.AdapterRef(adapter_id=ref.adapter_id, digest=ref.digest, rank=ref.rank, size_bytes=ref.size_bytes)


async def test_a_mixed_batch_says_what_the_engine_says(world: World, control_plane: ControlPlane) -> None:
    refs = {name: world.store.publish(name, data) for name, data in world.files.items()}
    seeded = SamplingParams(temperature=1.0, top_k=20, seed=11)
    messages, direct = [], []
    for number, name in enumerate(["", "a", "b", "c", "b", ""]):
        sampling = SamplingParams(temperature=0.0) if number < 4 else seeded
        prompt = PROMPT[: 4 + number]
        hosted = world.offline.host(world.files[name], BASE_MODEL) if name else None
        direct.append(
            EngineRequest(str(number), prompt, 24, sampling, hosted, stop_token_ids=_eos(world), logprob_count=2)
        )
        messages.append(
            request(
                str(number),
                prompt,
                max_tokens=24,
                logprob_count=2,
                adapter=to_proto(refs[name]) if name else None,
                sampling=sampling_pb2.SamplingParams(
                    temperature=sampling.temperature, top_k=sampling.top_k, seed=sampling.seed
                ),
            )
        )
    await control_plane.send(*messages)
    found = await answers(control_plane, [message.request_id for message in messages])
    expected = world.direct(direct)
    assert found.failed == {}
    for request_id, said in found.said.items():
        generation = expected[request_id]
        assert said.token_ids == generation.token_ids
        assert said.finish_reason is generation.finish_reason
        assert said.text == world.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        assert said.logprobs == pytest.approx([p.logprob for p in generation.logprobs], abs=1e-4)
    assert len({tuple(said.token_ids[:8]) for said in found.said.values()}) > 3  # the adapters do make a difference


async def test_stop_strings_and_resuming_agree(world: World, control_plane: ControlPlane) -> None:
    (whole,) = world.direct([EngineRequest("w", PROMPT, 40, SamplingParams(temperature=0.0))]).values()
    text = world.tokenizer.decode(whole.token_ids, skip_special_tokens=True)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    expected = text[: text.index(stop)]
    for resumed in (0, 3):
        conditions = sampling_pb2.StopConditions(strings=[stop], ignore_eos=True)
        await control_plane.send(
            request(f"r{resumed}", PROMPT, max_tokens=40, stop=conditions, resumed_token_ids=whole.token_ids[:resumed])
        )
        said = (await answers(control_plane, [f"r{resumed}"])).said[f"r{resumed}"]
        assert said.finish_reason is FinishReason.STOP
        tokens = [*whole.token_ids[:resumed], *said.token_ids]
        assert tokens == whole.token_ids[: len(tokens)]
        assert stop in world.tokenizer.decode(tokens, skip_special_tokens=True)
        assert stop not in world.tokenizer.decode(tokens[:-1], skip_special_tokens=True)
        if not resumed:
            assert said.text == expected


async def test_broken_adapters_fail_their_requests_alone(world: World, control_plane: ControlPlane) -> None:
    good = adapter_file(41, 2)
    not_finite = adapter_file(42, 2)[:-4] + b"\xff\xff\xff\x7f"
    refs = {
        "good": world.store.publish("good", good),
        "swapped": world.store.publish("swapped", adapter_file(43, 2), sent=adapter_file(44, 2)),
        "cut": world.store.publish("cut", adapter_file(45, 2), sent=adapter_file(45, 2)[:100]),
        "rubbish": world.store.publish("rubbish", b"rubbish"),
        "pickle": world.store.publish("pickle", b"\x80\x04\x95" + bytes(200)),
        "not_finite": world.store.publish("not_finite", not_finite),
        "missing": AdapterRef("team/missing", f"sha256:{hashlib.sha256(b'missing').hexdigest()}", 1, 1),
    }
    await control_plane.send(
        *(request(name, PROMPT, adapter=to_proto(ref), max_tokens=4) for name, ref in refs.items()),
        request("base", PROMPT, max_tokens=4),
    )
    found = await answers(control_plane, [*refs, "base"])
    assert {name: failure.reason for name, failure in found.failed.items()} == {
        "swapped": "ADAPTER_CORRUPT",
        "cut": "ADAPTER_CORRUPT",
        "rubbish": "ADAPTER_CORRUPT",
        "pickle": "ADAPTER_CORRUPT",
        "not_finite": "ADAPTER_NOT_FINITE",
        "missing": "ADAPTER_NOT_FOUND",
    }
    assert found.failed["missing"].code == Code.NOT_FOUND
    assert "team/missing" in found.failed["missing"].message
    for name in ("good", "base"):
        assert found.said[name].finish_reason is not None


async def test_residency_is_told(world: World, control_plane: ControlPlane) -> None:
    ref = world.store.publish("fresh", adapter_file(77, 2))
    await control_plane.prefetch(ref.digest)
    tiers = []
    while worker_pb2.RESIDENCY_TIER_HOST not in tiers:
        tiers += [r.tier for r in (await control_plane.read_status()).residency if r.digest == ref.digest]
    await control_plane.send(request("r", PROMPT, adapter=to_proto(ref), max_tokens=2))
    found = await answers(control_plane, ["r"])
    tiers += [r.tier for r in found.residency if r.digest == ref.digest]
    while worker_pb2.RESIDENCY_TIER_POOL not in tiers:
        tiers += [r.tier for r in (await control_plane.read_status()).residency if r.digest == ref.digest]


def _eos(world: World) -> frozenset[int]:
    return frozenset({world.tokenizer.token_to_id("<|end|>")})
