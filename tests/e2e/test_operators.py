"""The operators' loop on the whole stack: policies that change under load, and a control plane that is killed."""

import asyncio
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from multitude import AsyncClient, Client, SamplingParams, StopConditions
from multitude.errors import ConflictError, UnavailableError
from multitude.types import PolicySource
from tests.e2e.conftest import DEMO_MODEL
from tests.e2e.demo_prompts import demo_prompts

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "deploy" / "policies"
TTL_S = 1.0


async def test_policies_are_applied_and_rolled_back_as_every_answer_comes_right(stack, client):
    prompts = demo_prompts()[::8]
    async with AsyncClient(stack.address, store_address=stack.store_address, tenant="acme") as asking:

        async def ask(index, prompt):
            sampling = SamplingParams(temperature=0)
            options = {"adapter": prompt.adapter, "max_tokens": 64, "sampling": sampling, "request_id": f"op-{index}"}
            return (await asking.generate(prompt.prompt, timeout_s=60, **options)).text.strip()

        answers = asyncio.gather(*(ask(*each) for each in enumerate(prompts)))
        versions = []
        for name in ("spread", "consolidate", "profiles"):
            text = (POLICIES / f"{name}.yaml").read_text(encoding="utf-8")
            versions.append((await asking.apply_policy(text)).version)
        back = await asking.roll_back_policy()
        assert await answers == [prompt.expected for prompt in prompts]
        assert back.restored_version == versions[1]
        assert (await asking.fleet()).policy.name == back.name
        history = [applied.version async for applied in asking.policy_history()]
        assert history[:4] == [back.version, *reversed(versions)]
        explanation = await asking.explain_placement(request_id="op-0")
        assert (explanation.story.state, explanation.story.tenant) == ("finished", "acme")
        assert explanation.story.placements[0].worker_id in {"worker-0", "worker-1"}
        assert {verdict.worker_id for verdict in explanation.decision.verdicts} == {"worker-0", "worker-1"}
        await asking.roll_back_policy(0)
        assert (await asking.fleet()).policy.source is not PolicySource.APPLIED


@contextmanager
def another_control_plane(stack):
    """A second control plane on the stack's Redis; yields its process and address."""
    settings = {
        "listen": "127.0.0.1:0",
        "control_plane_id": "mortal",
        "model.path": DEMO_MODEL / "base",
        "model.name": "demo",
        "redis.url": f"unix://{stack.run_dir / 'redis.sock'}",
        "redis.ttl_s": TTL_S,
        "store_address": stack.store_address,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "control_plane", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[2]
        finally:
            process.kill()


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"


def test_a_killed_control_plane_frees_its_requests_everywhere(stack, client):
    endless = {"max_tokens": 240, "stop": StopConditions(ignore_eos=True)}
    with another_control_plane(stack) as (process, address), Client(address) as doomed:
        until(lambda: sum(worker.is_attached for worker in doomed.fleet().workers) == 2)
        streams = [doomed.stream("abc", request_id=f"doomed-{index}", **endless) for index in range(48)]
        iterators = [iter(stream) for stream in streams]
        assert next(iterators[0]).token_ids
        with pytest.raises(ConflictError):
            client.generate("abc", request_id="doomed-0", max_tokens=1)
        process.kill()
        with pytest.raises(UnavailableError):
            list(iterators[0])
        for stream in streams:
            stream.cancel()

    def is_free():
        workers = client.fleet().workers
        return all(worker.num_running == worker.num_waiting == worker.kv_pages == 0 for worker in workers)

    until(is_free)

    def is_claimable():
        try:
            client.generate("abc", request_id="doomed-0", max_tokens=1)
        except ConflictError:
            return False
        return True

    until(is_claimable)
