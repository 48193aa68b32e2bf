"""The directory of adapters that the kernels read, over a life of loads and evictions."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.lora.batch import ALL_MODULES
from tests.unit.worker_engine.fakes import GEOMETRY, SHAPE, adapter
from worker.adapters.residency import Residency
from worker.engine import lora_tables
from worker.engine.lora_tables import LoraTables
from worker.memory.layout import GROUPS, AdapterLayout
from worker.memory.pool import PagePool

ATTENTION = frozenset(GROUPS[0] + GROUPS[1])


@pytest.mark.parametrize("most_slots", [64, 1024])
def test_every_slot_tells_its_adapter_whoever_came_and_went(most_slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outgrows the first directory in slots, in pages and in rank; later slots are taken from others."""
    monkeypatch.setattr(lora_tables, "_MOST_SLOTS", most_slots)
    rng = random.Random(3)
    residency = Residency(PagePool(300), GEOMETRY)
    tables = LoraTables(residency, torch.device("cpu"), max_live=40)
    known = [adapter(marker, num_pages=rng.choice((1, 2, 3))) for marker in range(1, 150)]
    for _ in range(60):
        live = rng.sample(known, rng.randint(1, 40))
        for hosted in live:
            assert residency.acquire(hosted)
        residency.take_loads()
        slots = tables.slots(live)
        batch = tables.batch(live, torch.from_numpy(slots), torch.arange(len(live) + 1, dtype=torch.int32))
        assert len(np.unique(slots)) == len(live)
        for slot, hosted in zip(batch.slots.tolist(), live, strict=True):
            held = batch.directory.page_table[slot]
            assert tuple(held[held >= 0].tolist()) == residency.pages_of(hosted.digest)
            assert batch.directory.places[slot, ..., 0].tolist() == [list(row) for row in hosted.layout.ranks]
            assert batch.directory.scales[slot].tolist() == [list(row) for row in hosted.layout.scales]
            assert batch.directory.max_rank >= hosted.layout.max_rank
        assert batch.directory.num_slots <= most_slots
        for hosted in live:
            residency.release(hosted.digest)
        for change in residency.take_changes():
            if not change.resident:
                tables.forget(change.digest)


def test_a_batch_of_the_same_adapters_keeps_what_ops_made_of_them() -> None:
    residency = Residency(PagePool(20), GEOMETRY)
    tables = LoraTables(residency, torch.device("cpu"), max_live=40)
    live = [adapter(marker, num_pages=2) for marker in (1, 2)]
    for hosted in live:
        residency.acquire(hosted)
    first, second = (
        tables.batch(live, torch.from_numpy(tables.slots(live)), torch.tensor(rows, dtype=torch.int32))
        for rows in ([0, 1, 2], [1, 2, 4])
    )
    assert second.derived is first.derived
    assert second.plans is not first.plans
    assert second.row_start.tolist() == [1, 2, 4]
    swapped = live[::-1]
    third = tables.batch(swapped, torch.from_numpy(tables.slots(swapped)), first.row_start)
    assert third.derived is not first.derived
    assert third.kept[0] is first.kept[1]


def test_a_directory_grows_in_large_steps() -> None:
    residency = Residency(PagePool(4000), GEOMETRY)
    tables = LoraTables(residency, torch.device("cpu"), max_live=40)
    directories = set()
    for marker in range(1, 70):  # of ranks 4 to 276, on as many pages
        live = [adapter(marker, num_pages=marker)]
        assert residency.acquire(live[0])
        slots = torch.from_numpy(tables.slots(live))
        directories.add(id(tables.batch(live, slots, torch.tensor([0, 1], dtype=torch.int32)).directory))
    assert len(directories) <= 10, "each costs the recordings that name the one before"


def test_a_reserved_directory_stays_whatever_adapters_come() -> None:
    residency = Residency(PagePool(4000), GEOMETRY)
    tables = LoraTables(residency, torch.device("cpu"), max_live=4, max_rank=64)
    tables.reserve()
    directories = set()
    for marker in range(1, 2000):
        live = [adapter(marker, num_pages=marker % 16 + 1)]  # of ranks 4 to 64
        assert residency.acquire(live[0])
        slots = torch.from_numpy(tables.slots(live))
        directories.add(id(tables.batch(live, slots, torch.tensor([0, 1], dtype=torch.int32)).directory))
        residency.release(live[0].digest)
        residency.take_loads()
    assert len(directories) == 1


def test_a_directory_is_reserved_for_no_larger_rank_than_was_asked_for() -> None:
    tables = LoraTables(Residency(PagePool(100), GEOMETRY), torch.device("cpu"), max_live=4, max_rank=16)
    tables.reserve()
    batch = tables.fixed(*(torch.zeros(n, dtype=torch.int32) for n in (4, 5)), ALL_MODULES, is_decode=True)
    assert batch.directory.max_rank == 16


def test_a_batch_targets_what_one_of_its_adapters_does() -> None:
    residency = Residency(PagePool(100), GEOMETRY)
    tables = LoraTables(residency, torch.device("cpu"), max_live=4)
    query, gate = (
        replace(adapter(marker), layout=AdapterLayout(SHAPE, (ranks,), ((1.0,) * 7,)))
        for marker, ranks in ((1, (4, 0, 0, 0, 0, 0, 0)), (2, (0, 0, 0, 0, 4, 0, 0)))
    )
    assert tables.targets([]) is None
    for live, modules in (
        ([query], ATTENTION),
        ([query, gate], ALL_MODULES),
        ([gate], ALL_MODULES),
        ([query], ATTENTION),
    ):
        for hosted in live:
            assert residency.acquire(hosted)
        slots = torch.from_numpy(tables.slots(live))
        assert tables.targets(live) == modules
        assert tables.batch(live, slots, torch.zeros(len(live) + 1, dtype=torch.int32)).modules == modules


@pytest.mark.parametrize(
    ("layers", "modules"),
    [
        (((4, 0, 0, 0, 0, 0, 0), (0, 0, 0, 4, 0, 0, 0)), ATTENTION),
        (((0,) * 7, (0, 0, 0, 0, 0, 0, 4)), ALL_MODULES),
    ],
    ids=["attention", "down_later"],
)
def test_an_adapter_targets_what_it_does_in_some_layer(
    layers: tuple[tuple[int, ...], ...], modules: frozenset[int]
) -> None:
    layout = AdapterLayout(replace(SHAPE, num_layers=2), layers, ((1.0,) * 7,) * 2)
    assert lora_tables.TARGETS[lora_tables.target_set(layout)] == modules
