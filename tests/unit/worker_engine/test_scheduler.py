"""What the scheduler decides, one scenario at a time. Pages hold 4 tokens."""

from typing import Any

import pytest

from worker.adapters.residency import Residency
from worker.engine.config import EngineConfig
from worker.engine.errors import WaitingQueueFull
from worker.engine.scheduler import Plan, Scheduler
from worker.engine.sequence import Sequence, SequenceState
from worker.memory.errors import PoolTooSmall
from worker.memory.layout import AdapterLayout, ModelShape, PageGeometry
from worker.memory.pool import PagePool
from worker.types import EngineRequest, HostedAdapter

SHAPE = ModelShape(num_layers=1, hidden_size=4, num_heads=1, num_kv_heads=1, head_dim=4, intermediate_size=4)
GEOMETRY = PageGeometry(SHAPE, block_size=4)


def adapter(name: str, num_pages: int) -> HostedAdapter:
    layout = AdapterLayout(SHAPE, ((4 * num_pages, 0, 0, 0, 0, 0, 0),), ((1.0,) * 7,))
    return HostedAdapter(name, layout, tuple(range(num_pages)))


class World:
    """A scheduler and its pool, without a model: `run` computes a plan by appending token 0."""

    def __init__(self, num_pages: int, *, max_queued_pages: int | None = None, **bounds: Any) -> None:
        defaults = {"context_length": 64, "block_size": 4, "max_step_tokens": 8, "max_running": 4, "watermark": 0.0}
        self.config = EngineConfig(**(defaults | bounds))
        self.pool = PagePool(num_pages)
        self.residency = Residency(self.pool, GEOMETRY, max_queued_pages)
        self.copied: list[str] = []
        self.scheduler = Scheduler(self.pool, self.residency, self.config)
        self.arrivals = 0

    def add(
        self, name: str, num_prompt: int, max_tokens: int = 8, uses: HostedAdapter | None = None, priority: int = 0
    ) -> Sequence:
        request = EngineRequest(name, (0,) * num_prompt, max_tokens, adapter=uses, priority=priority)
        sequence = Sequence(request, self.arrivals, self.config.context_length)
        self.scheduler.add(sequence)
        self.arrivals += 1
        return sequence

    def step(self) -> list[tuple[str, int]]:
        """Plan and compute a step; the plan as (request, number of tokens)."""
        plan = self.scheduler.schedule()
        self.copied += [load.digest for load in self.residency.take_loads()]
        self.compute(plan)
        self.pool.check_integrity()
        self.residency.check_integrity()
        return [(s.request.request_id, n) for s, n in zip(plan.sequences, plan.num_tokens, strict=True)]

    def compute(self, plan: Plan) -> None:
        for sequence, num_tokens in zip(plan.sequences, plan.num_tokens, strict=True):
            sequence.num_computed += num_tokens
            if sequence.num_uncomputed == 0:
                sequence.append(0)
                if sequence.num_tokens == sequence.max_length:
                    self.scheduler.finish(sequence)


def test_prompts_are_cut_in_chunks_and_decodes_go_first() -> None:
    world = World(64)
    world.add("long", 11)
    assert world.step() == [("long", 8)]
    world.add("short", 2)
    assert world.step() == [("long", 3), ("short", 2)]
    world.add("third", 20)
    assert world.step() == [("long", 1), ("short", 1), ("third", 6)]


def test_the_batch_and_its_tokens_are_bounded() -> None:
    world = World(64, max_step_tokens=4, max_running=2)
    for name in "abc":
        world.add(name, 2)
    assert world.step() == [("a", 2), ("b", 2)]
    assert world.step() == [("a", 1), ("b", 1)]
    assert (world.scheduler.num_running, world.scheduler.num_waiting) == (2, 1)


def test_priority_goes_before_arrival() -> None:
    world = World(64, max_running=1)
    world.add("first", 2, max_tokens=1)
    world.add("second", 2, max_tokens=1)
    world.add("urgent", 2, max_tokens=1, priority=5)
    assert [world.step() for _ in range(3)] == [[("urgent", 2)], [("first", 2)], [("second", 2)]]


def test_rows_are_grouped_by_adapter_and_base_rows_come_first() -> None:
    world = World(64)
    red, blue = adapter("red", 1), adapter("blue", 1)
    for name, uses in (("r1", red), ("base", None), ("b", blue), ("r2", red)):
        world.add(name, 1, uses=uses)
    assert [name for name, _ in world.step()] == ["base", "b", "r1", "r2"]


def test_without_pages_the_youngest_is_preempted_and_comes_back_first() -> None:
    world = World(4)
    old = world.add("old", 4, max_tokens=12)
    young = world.add("young", 4, max_tokens=12)
    waiting = world.add("waiting", 4, max_tokens=12)
    assert world.step() == [("old", 4), ("young", 4)]
    while young.state is SequenceState.RUNNING:
        world.step()
    assert young.state is SequenceState.WAITING
    assert (young.num_computed, len(young.pages)) == (0, 0)
    assert world.scheduler.num_preemptions == 1
    known = young.num_tokens
    while old.state is not SequenceState.FINISHED:
        world.step()
    assert world.step() == [("young", min(known, 8))], "its own output is computed again with its prompt"
    assert waiting.state is SequenceState.WAITING


def test_a_lower_priority_is_preempted_before_a_younger_one() -> None:
    world = World(4)
    low = world.add("low", 4, max_tokens=12, priority=-1)
    world.step()
    high = world.add("high", 4, max_tokens=12)
    while low.state is SequenceState.RUNNING:
        world.step()
    assert high.state is SequenceState.RUNNING


def test_what_a_preemption_freed_is_not_given_away_in_the_same_step() -> None:
    world = World(5)
    world.add("old", 4, max_tokens=12)
    young = world.add("young", 4, max_tokens=12, uses=adapter("red", 1))
    while world.pool.free_pages > 0:
        world.step()
    world.add("small", 1, max_tokens=1)
    while young.state is SequenceState.RUNNING:
        last = world.step()
    assert world.pool.free_pages > 0
    assert last == [("old", 1)]


def test_who_ran_before_goes_first_again() -> None:
    world = World(8)
    world.add("old", 4, max_tokens=24)
    world.step()
    passed = world.add("passed", 4, max_tokens=1, uses=adapter("blue", 7))
    young = world.add("young", 12, max_tokens=12)
    while world.scheduler.num_preemptions == 0:
        world.step()
    assert passed.arrival < young.arrival
    assert [s.request.request_id for s in world.scheduler._waiting.head(2)] == ["young", "passed"]


def test_an_adapter_in_use_takes_no_more_room() -> None:
    world = World(8)
    red = adapter("red", 5)
    for name in "abc":
        world.add(name, 4, max_tokens=1, uses=red)
    assert world.step() == [("a", 4), ("b", 4)]
    world = World(8, max_step_tokens=4)
    first, second = (world.add(name, 4, max_tokens=8, uses=red) for name in "ab")
    world.step()
    world.step()
    assert (first.state, second.state) == (SequenceState.RUNNING, SequenceState.RUNNING)


def test_idle_adapters_leave_before_a_sequence_is_preempted() -> None:
    world = World(4)
    world.add("brief", 1, max_tokens=1, uses=adapter("red", 2))
    world.step()
    assert world.residency.evictable_pages == 2
    world.add("long", 4, max_tokens=12)
    while world.scheduler.num_running + world.scheduler.num_waiting:
        world.step()
    assert world.scheduler.num_preemptions == 0
    assert world.pool.adapter_pages == 0


def test_an_adapter_without_room_is_passed_but_not_for_ever() -> None:
    world = World(8, max_running=3, max_skips=2)
    world.add("holder", 4, max_tokens=20, uses=adapter("red", 2))
    world.step()
    starved = world.add("starved", 4, max_tokens=4, uses=adapter("blue", 5))
    for index in range(5):
        world.add(f"later{index}", 1, max_tokens=1)
    steps = [world.step()]
    while starved.state is SequenceState.WAITING:
        steps.append(world.step())
    before = {name for step in steps[:-1] for name, _ in step}
    assert before == {"holder", "later0", "later1"}
    assert [name for name, _ in steps[-1]] == ["later2", "later3", "starved"]
    assert starved.num_passed == 2


def test_kv_without_room_stops_admission() -> None:
    world = World(4)
    world.add("running", 8, max_tokens=4)
    world.step()
    big = world.add("big", 12, max_tokens=1)
    small = world.add("small", 1, max_tokens=1)
    world.step()
    assert (big.state, small.state) == (SequenceState.WAITING, SequenceState.WAITING)


def test_a_watermark_is_left_while_others_run_but_never_blocks_the_only_one() -> None:
    world = World(8, watermark=0.5)
    world.add("first", 8, max_tokens=9)
    second = world.add("second", 12, max_tokens=4)
    world.step()
    assert second.state is SequenceState.WAITING
    world.scheduler.finish(world.scheduler._running[0])
    world.step()
    assert second.state is SequenceState.RUNNING


def test_what_could_never_fit_is_refused_with_numbers() -> None:
    world = World(8)
    world.add("fits", 16, max_tokens=9, uses=adapter("red", 2))
    with pytest.raises(PoolTooSmall, match=r"7 pages for 26 tokens and 2 pages for its adapter, and the pool has 8"):
        world.add("does not", 16, max_tokens=10, uses=adapter("red", 2))


def test_waiting_is_bounded() -> None:
    world = World(8, max_waiting=2)
    world.add("a", 1)
    world.add("b", 1)
    with pytest.raises(WaitingQueueFull, match="2 requests wait"):
        world.add("c", 1)


def test_finish_frees_a_sequence_in_any_state() -> None:
    world = World(8)
    running = world.add("running", 8, uses=adapter("red", 1))
    world.step()
    waiting = world.add("waiting", 8)
    world.scheduler.finish(running)
    world.scheduler.finish(waiting)
    assert (world.pool.kv_pages, world.residency.evictable_pages) == (0, 1)
    assert world.scheduler.pending_prefill_tokens == 0
    assert world.step() == []


def test_pending_prefill_counts_running_and_waiting() -> None:
    world = World(8, max_running=1)
    world.add("a", 20)
    world.add("b", 3)
    world.step()
    assert world.scheduler.pending_prefill_tokens == 12 + 3


@pytest.mark.parametrize(
    "bounds",
    [{"max_step_tokens": 3, "max_running": 4}, {"max_waiting": 0}, {"max_skips": -1}, {"watermark": 1.0}],
)
def test_bounds_that_cannot_work_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        EngineConfig(context_length=64, **bounds)


def test_adapters_of_waiting_sequences_are_copied_ahead_in_the_order_of_the_queue() -> None:
    world = World(64, max_running=1, max_queued_pages=4, prefetch_window=3)
    for name, num_pages in (("now", 1), ("next", 3), ("second", 2), ("third", 2), ("beyond", 1)):
        world.add(name, 4, max_tokens=12, uses=adapter(name, num_pages))
    world.step()
    assert world.copied == ["now", "next"], "copies before one step are bounded, and none is passed"
    world.step()
    assert world.copied == ["now", "next", "second", "third"]
    world.step()
    assert world.copied == ["now", "next", "second", "third"], "one is beyond the window"


def test_nothing_is_copied_ahead_without_a_window() -> None:
    world = World(64, max_running=1, prefetch_window=0)
    for name in ("now", "next"):
        world.add(name, 4, uses=adapter(name, 1))
    world.step()
    assert world.copied == ["now"]


def test_a_copy_ahead_takes_no_page_of_one_in_use_or_more_urgent() -> None:
    world = World(10, max_running=1)
    world.add("now", 4, max_tokens=16, uses=adapter("now", 3))
    world.add("next", 4, uses=adapter("next", 4))
    world.add("second", 4, uses=adapter("second", 3))
    world.step()
    assert world.copied == ["now", "next"]
    assert world.residency.is_resident("next")
    assert world.pool.free_pages == 2


def test_a_copy_ahead_leaves_half_of_what_admissions_leave() -> None:
    world = World(20, max_running=1, watermark=0.2)
    world.add("now", 4, max_tokens=16)
    world.add("next", 4, max_tokens=1, uses=adapter("next", 18))
    world.add("small", 4, uses=adapter("small", 1))
    world.step()
    assert world.copied == [], "one of 20 pages would be left, and the queue's order holds"
    world = World(20, max_running=1, watermark=0.2)
    world.add("now", 4, max_tokens=16)
    world.add("next", 4, max_tokens=1, uses=adapter("next", 17))
    world.step()
    assert world.copied == ["next"]


def test_what_was_copied_ahead_goes_before_a_running_sequence_does() -> None:
    world = World(6, max_running=1)
    old = world.add("old", 4, max_tokens=17)
    world.add("next", 4, max_tokens=4, uses=adapter("next", 4))
    world.step()
    assert world.residency.is_resident("next")
    while old.state is SequenceState.RUNNING:
        world.step()
    assert world.scheduler.num_preemptions == 0
    assert old.state is SequenceState.FINISHED


def test_a_sequence_starts_once_its_large_adapter_has_arrived_and_others_go_on() -> None:
    world = World(64, max_queued_pages=2)
    world.add("running", 2, max_tokens=30)
    world.step()
    world.add("large", 2, uses=adapter("large", 5))
    world.add("small", 2, uses=adapter("small", 2))
    assert world.step() == [("running", 1), ("small", 2)]
    assert world.copied == ["small"], "the bus is taken"
    assert world.step() == [("running", 1), ("small", 1)]
    assert world.copied == ["small", "large"]
    assert [name for name, _ in world.step()] == ["running", "small"]
    world.residency.note_arrived(["large"])
    assert ("large", 2) in world.step()


def test_a_large_adapter_makes_nobody_wait_where_nobody_runs() -> None:
    world = World(64, max_queued_pages=2)
    world.add("large", 2, uses=adapter("large", 5))
    assert world.step() == [("large", 2)]
