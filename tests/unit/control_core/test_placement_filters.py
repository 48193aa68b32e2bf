from dataclasses import replace

import pytest

from control_plane.core.fleet import Fleet
from control_plane.core.placement.filters.adapter_fits import AdapterFits
from control_plane.core.placement.filters.base_model import BaseModel
from control_plane.core.placement.filters.drain import Drain
from control_plane.core.placement.filters.has_room import HasRoom
from control_plane.core.placement.filters.health import Health
from control_plane.core.placement.filters.labels import Labels
from control_plane.core.placement.filters.lease import Lease
from control_plane.core.placement.filters.max_load import MaxLoad
from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.placement.filters.sequence_fits import SequenceFits
from control_plane.core.placement.filters.tenants import TenantMode, Tenants
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.registry import FILTERS
from control_plane.core.settings import LabelMatch
from tests.unit.control_core.makers import admits, busy, request, worker


@pytest.mark.parametrize(
    ("size_bytes", "headroom", "is_admitted"),
    [(95_000, 0.05, True), (95_001, 0.05, False), (100_000, 0.0, True), (100_001, 0.0, False), (1, 0.95, True)],
)
def test_adapter_fits(size_bytes: int, headroom: float, is_admitted: bool) -> None:
    # 100 pages of 1000 bytes.
    asked = PlacementRequest(request(name="a", size_bytes=size_bytes))
    assert admits(AdapterFits(headroom=headroom), asked, worker()) is is_admitted


def test_adapter_fits_admits_the_base_model_and_silent_workers() -> None:
    huge = PlacementRequest(request(name="a", size_bytes=10**12))
    assert admits(AdapterFits(), PlacementRequest(request()), worker(total_pages=0))
    assert admits(AdapterFits(), huge, worker(page_size_bytes=0))


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "size_bytes", "is_admitted"),
    [(1000, 600, 0, True), (1000, 601, 0, False), (1000, 440, 10_000, True), (1000, 441, 10_000, False)],
)
def test_sequence_fits(num_prompt_tokens: int, max_tokens: int, size_bytes: int, is_admitted: bool) -> None:
    # 100 pages of 16 tokens.
    name = "a" if size_bytes else None
    asked = request(name=name, num_prompt_tokens=num_prompt_tokens, max_tokens=max_tokens, size_bytes=size_bytes)
    assert admits(SequenceFits(), PlacementRequest(asked), worker()) is is_admitted


def test_sequence_fits_admits_workers_that_have_not_told_a_size() -> None:
    asked = PlacementRequest(request(name="a", num_prompt_tokens=5000, size_bytes=10**12))
    silent = [worker(**{name: 0}) for name in ("page_size_bytes", "block_size")]
    assert [admits(SequenceFits(), asked, made) for made in silent] == [True, True]
    assert not admits(SequenceFits(), asked, worker(total_pages=0))


def test_sequence_fits_counts_resumed_output_once() -> None:
    asked = request(num_prompt_tokens=1000, max_tokens=600)
    assert admits(SequenceFits(), PlacementRequest(asked, num_resumed_tokens=599), worker())


@pytest.mark.parametrize(
    ("num_busy", "load", "is_admitted"), [(0, 0.5, True), (1, 0.5, True), (2, 0.5, False), (3, 1, True)]
)
def test_max_load(num_busy: int, load: float, is_admitted: bool) -> None:
    made = busy(worker(window=4), *[None] * num_busy)
    assert admits(MaxLoad(load=load), PlacementRequest(request()), made) is is_admitted


@pytest.mark.parametrize(("kv_pages", "share", "is_admitted"), [(90, 0.1, True), (91, 0.1, False), (100, 0.0, True)])
def test_min_free_pages(kv_pages: int, share: float, is_admitted: bool) -> None:
    made = worker(kv_pages=kv_pages)
    assert admits(MinFreePages(share=share), PlacementRequest(request()), made) is is_admitted


@pytest.mark.parametrize(
    ("base_model", "is_admitted"), [("", True), ("base", True), ("other", False), ("unheard-of", False)]
)
def test_base_model(base_model: str, is_admitted: bool) -> None:
    asked = PlacementRequest(replace(request(), base_model=base_model))
    fleet = Fleet()
    worker("x", base_model="other", fleet=fleet)
    assert admits(BaseModel(), asked, worker(fleet=fleet)) is is_admitted


def test_lease_and_drain_and_room() -> None:
    fleet, asked = Fleet(), PlacementRequest(request())
    made = busy(worker(window=1, fleet=fleet), None)
    plugins = Lease(), Drain(), HasRoom()
    assert [admits(each, asked, made) for each in plugins] == [True, True, False]
    fleet.set_lease("w", is_live=False, now=0.0)
    assert [admits(each, asked, made) for each in plugins] == [False, True, False]
    fleet.set_lease("w", is_live=True, now=0.0)
    fleet.set_drain("w", is_draining=True, now=0.0)
    assert [admits(each, asked, made) for each in plugins] == [True, False, False]
    fleet.set_drain("w", is_draining=False, now=0.0)
    worker(window=0, fleet=fleet)
    assert [admits(each, asked, made) for each in plugins] == [True, False, False]


@pytest.mark.parametrize(
    ("tenant", "mode", "named", "expected"),
    [
        ("t", TenantMode.SHARED, [(), ("t",), ("u",), ("t", "u")], [True, True, False, True]),
        ("t", TenantMode.OWN, [(), ("t",), ("u",), ("t", "u")], [False, True, False, True]),
        ("v", TenantMode.SHARED, [(), ("t",)], [True, False]),
        ("v", TenantMode.OWN, [(), ("t",)], [True, False]),
    ],
)
def test_tenants(tenant: str, mode: TenantMode, named: list[tuple[str, ...]], expected: list[bool]) -> None:
    fleet = Fleet()
    workers = [worker(f"w{index}", tenants=tenants, fleet=fleet) for index, tenants in enumerate(named)]
    asked = PlacementRequest(request(tenant=tenant))
    assert [admits(Tenants(mode=mode), asked, each) for each in workers] == expected


@pytest.mark.parametrize(
    ("labels", "is_admitted"),
    [
        ((("gpu", "h200"), ("zone", "a")), True),
        ((("gpu", "h100"), ("zone", "a")), True),
        ((("gpu", "h200"), ("zone", "b")), False),
        ((("zone", "a"),), False),
        ((), False),
    ],
)
def test_labels(labels: tuple[tuple[str, str], ...], is_admitted: bool) -> None:
    plugin = Labels(match=LabelMatch((("zone", ("a",)), ("gpu", ("h100", "h200")))))
    assert admits(plugin, PlacementRequest(request()), worker(labels=labels)) is is_admitted
    assert admits(Labels(), PlacementRequest(request()), worker(labels=labels))


def test_labels_and_tenants_of_a_worker_may_change_and_go_with_it() -> None:
    fleet = Fleet()
    worker(labels=(("zone", "a"),), tenants=("t",), fleet=fleet)
    made = worker(labels=(("zone", "b"),), fleet=fleet)
    assert not admits(Labels(match=LabelMatch((("zone", ("a",)),))), PlacementRequest(request()), made)
    assert admits(Tenants(), PlacementRequest(request(tenant="u")), made)
    fleet.remove("w", 0.0)
    columns = fleet.columns
    assert [len(sets) for sets in (columns.labels, columns.tenants, columns.base_models)] == [0, 0, 0]


@pytest.mark.parametrize(("now", "is_admitted"), [(0.0, True), (10.0, True), (10.1, False)])
def test_health_of_a_silent_worker(now: float, is_admitted: bool) -> None:
    assert admits(Health(), PlacementRequest(request(), now=now), worker()) is is_admitted


@pytest.mark.parametrize("max_failures", range(1, 10))
def test_health_allows_fewer_failures_than_so_many(max_failures: int) -> None:
    made, plugin = worker(now=1000.1), Health(max_failures=max_failures)
    asked = PlacementRequest(request(), now=1000.1)
    for _ in range(max_failures):
        assert admits(plugin, asked, made)
        made.note_failure(1000.1)
    assert not admits(plugin, asked, made)


def test_health_forgives_what_failed_long_ago() -> None:
    made, plugin = worker(), Health(max_silence_s=1000, max_failures=3)
    for _ in range(4):
        made.note_failure(5.0)
    assert not admits(plugin, PlacementRequest(request(), now=5.0), made)
    assert not admits(plugin, PlacementRequest(request(), now=15.0), made)
    assert admits(plugin, PlacementRequest(request(), now=20.0), made)
    made.note_failure(35.0)
    # Two of the four are left, and one is new.
    assert not admits(plugin, PlacementRequest(request(), now=35.0), made)


def test_only_lasting_verdicts_are_called_lasting() -> None:
    lasting = {name for name, plugin in FILTERS.items() if plugin.is_lasting}
    assert lasting == set(FILTERS) - {"has_room", "max_load", "min_free_pages"}
