from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from control_plane.core.homes import homes, number_of

NUMBERS = np.array([number_of(f"worker-{index}") for index in range(50)], dtype=np.uint64)
EVERYWHERE = np.ones(50, dtype=np.bool_)
ADAPTERS = [f"sha256:{index}" for index in range(5000)]


def home(digest: str, among: np.ndarray = EVERYWHERE) -> int:
    (row,) = homes(digest, NUMBERS, among, 1)
    return int(row)


def test_adapters_are_spread_evenly() -> None:
    counts = Counter(home(digest) for digest in ADAPTERS)
    assert len(counts) == 50
    assert max(counts.values()) < 1.5 * 100


def test_when_a_worker_goes_its_adapters_alone_move_and_not_all_to_one() -> None:
    others = EVERYWHERE.copy()
    others[7] = False
    moved = {digest: home(digest, others) for digest in ADAPTERS if home(digest, others) != home(digest)}
    assert {home(digest) for digest in moved} == {7}
    assert len(set(moved.values())) > 30


@pytest.mark.parametrize("digest", ADAPTERS[:50])
def test_more_homes_hold_the_fewer(digest: str) -> None:
    sets = [set(homes(digest, NUMBERS, EVERYWHERE, count).tolist()) for count in range(1, 60)]
    assert [len(each) for each in sets] == [min(count, 50) for count in range(1, 60)]
    assert all(fewer <= more for fewer, more in pairwise(sets))


@pytest.mark.parametrize("count", [1, 2, 50])
def test_nobody_is_home_to_nobody(count: int) -> None:
    assert homes("a", NUMBERS, ~EVERYWHERE, count).tolist() == []


def test_the_choice_is_the_same_in_every_process() -> None:
    assert [home(digest) for digest in ADAPTERS[:6]] == [31, 30, 23, 47, 40, 14]
