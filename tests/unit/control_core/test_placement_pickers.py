import random
from collections import Counter

import numpy as np
import pytest

from control_plane.core.placement.pickers.max_score import MaxScore
from control_plane.core.placement.pickers.power_of_two import PowerOfTwo
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.plugin import Picker
from control_plane.core.rows import Floats


def scored(*scores: float) -> Floats:
    return np.array(scores)


def counts(picker: Picker, scores: Floats, times: int = 4000) -> Counter[int]:
    rng = random.Random(1)
    return Counter(picker.pick(scores, rng) for _ in range(times))


@pytest.mark.parametrize(("scores", "best"), [((0.1,), 0), ((0.1, 0.9, 0.5), 1), ((0.5, 0.5), 0)])
def test_max_score(scores: tuple[float, ...], best: int) -> None:
    assert MaxScore().pick(scored(*scores), random.Random(0)) == best


def test_weighted_random_follows_the_scores() -> None:
    seen = counts(WeightedRandom(sharpness=1), scored(0.6, 0.3, 0.1, 0.0))
    assert seen[0] == pytest.approx(2400, rel=0.1)
    assert seen[1] == pytest.approx(1200, rel=0.1)
    assert seen[2] == pytest.approx(400, rel=0.2)
    assert seen[3] == 0


def test_weighted_random_gets_sharper() -> None:
    assert counts(WeightedRandom(sharpness=8), scored(0.6, 0.3))[0] > 3950
    assert counts(WeightedRandom(sharpness=0), scored(0.6, 0.3))[0] == pytest.approx(2000, rel=0.1)


def test_weighted_random_without_scores() -> None:
    assert counts(WeightedRandom(), scored(0.0, 0.0))[0] == pytest.approx(2000, rel=0.1)


def test_power_of_two() -> None:
    seen = counts(PowerOfTwo(), scored(0.1, 0.2, 0.3))
    assert seen[2] == pytest.approx(4000 * 2 / 3, rel=0.1)
    assert seen[1] == pytest.approx(4000 / 3, rel=0.1)
    assert seen[0] == 0
    assert counts(PowerOfTwo(), scored(0.5, 0.5))[0] == 4000
    assert counts(PowerOfTwo(), scored(0.5))[0] == 4000
