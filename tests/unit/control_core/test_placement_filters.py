import pytest

from control_plane.core.placement.filters.adapter_fits import AdapterFits
from control_plane.core.placement.filters.max_load import MaxLoad
from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.placement.filters.sequence_fits import SequenceFits
from control_plane.core.placement.plugin import PlacementRequest
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


def test_only_lasting_verdicts_are_called_lasting() -> None:
    assert AdapterFits.is_lasting
    assert SequenceFits.is_lasting
    assert not MaxLoad.is_lasting
    assert not MinFreePages.is_lasting
