import pytest

from control_plane.core.cost import Room, ServiceCost
from control_plane.core.predictor import FirstTokenPredictor
from control_plane.core.types import ResidencyTier
from tests.unit.control_core.makers import request

ROOM = Room(places=10.0, tokens=1000.0, token_bytes=10.0)
COLD = request("r", "a", size_bytes=2000)


def cost(**fields: int) -> float:
    return ServiceCost().of(request(**fields), ROOM, prefill_tokens_per_s=0.0, is_resident=True)


def test_costs_follow_output_room_and_adapter() -> None:
    # 20 tokens of output in a tenth of the places, for the pool is not what is scarce.
    assert cost(num_prompt_tokens=4, max_tokens=20) == pytest.approx(20 * 0.1)
    # (400 + 100 / 2) / 1000 of the pool.
    assert cost(num_prompt_tokens=400, max_tokens=100) == pytest.approx(100 * 0.45)
    learned = ServiceCost()
    # 2000 bytes are 200 tokens; 10 tokens of output.
    cold = learned.of(COLD, ROOM, prefill_tokens_per_s=20.0, is_resident=False)
    assert cold == pytest.approx(10 * (4 + 5 + 200) / 1000)
    # A prompt of 4 at 20 tokens a second takes as long as a token of output that holds its place for 0.2 s.
    learned.finished(request(max_tokens=10), 10, num_resumed_tokens=0, held_s=2.0, weight=1.0)
    assert learned.of(COLD, ROOM, prefill_tokens_per_s=20.0, is_resident=True) == pytest.approx(10 * 0.1 + 1.0)


def test_costs_are_learned() -> None:
    learned = ServiceCost()
    for _ in range(50):
        learned.finished(request(max_tokens=100), 25, num_resumed_tokens=0, held_s=5.0, weight=0.5)
    # A quarter of what is asked for is produced.
    found = learned.of(request(num_prompt_tokens=1, max_tokens=40), ROOM, prefill_tokens_per_s=0.0, is_resident=True)
    assert found == pytest.approx(10 * 0.1)


def test_a_retry_is_measured_by_what_it_produced_itself() -> None:
    learned = ServiceCost()
    # All 10 tokens were produced, 2 of them here, in 2 s: a prompt of 4 at 20 tokens a second is 0.2 tokens of output.
    learned.finished(request(max_tokens=10), 10, num_resumed_tokens=8, held_s=2.0, weight=1.0)
    found = learned.of(request(max_tokens=10), ROOM, prefill_tokens_per_s=20.0, is_resident=True)
    assert found == pytest.approx(10 * 0.1 + 0.2)


def test_without_any_measurement_costs_are_positive() -> None:
    found = ServiceCost().of(request(max_tokens=1), Room(), prefill_tokens_per_s=0.0, is_resident=False)
    assert found == 1.0


def test_first_tokens_are_learned_by_tier() -> None:
    predictor = FirstTokenPredictor()
    assert predictor.service_s(COLD, 0.5, ResidencyTier.NONE) == 0.5
    for _ in range(50):
        predictor.served(request(), 1.0, ResidencyTier.POOL, 1.25, 0.5)
        predictor.served(request("h", "a", size_bytes=1000), 1.0, ResidencyTier.HOST, 1.35, 0.5)
        predictor.served(request("n", "a", size_bytes=1000), 1.0, ResidencyTier.NONE, 3.25, 0.5)
    assert predictor.service_s(request(), 1.0, ResidencyTier.POOL) == pytest.approx(1.25)
    assert predictor.service_s(COLD, 1.0, ResidencyTier.HOST) == pytest.approx(1.25 + 0.2)
    assert predictor.service_s(COLD, 1.0, ResidencyTier.NONE) == pytest.approx(1.25 + 4.0)


def test_predictions_correct_themselves_and_say_how_far_they_are_off() -> None:
    predictor = FirstTokenPredictor()
    first = predictor.predict(2.0, 0.5)
    assert first.first_token_s == 2.5
    for _ in range(100):
        predictor.came(predictor.predict(2.0, 0.5), waited_s=3.0, first_token_s=3.5, weight=0.1)
    assert predictor.predict(2.0, 0.5).first_token_s == pytest.approx(3.5, rel=0.01)
    found = predictor.snapshot
    assert found.num_samples == 100
    assert found.correction == pytest.approx(1.5, rel=0.01)
    assert found.mean_absolute_error_s == pytest.approx(0.0, abs=0.05)


def test_a_drop_says_that_the_wait_was_longer() -> None:
    predictor = FirstTokenPredictor()
    predictor.dropped(predictor.predict(4.0, 0.5), 1.0, 0.5)
    assert predictor.snapshot.correction == 1.0
    predictor.dropped(predictor.predict(2.0, 0.5), 6.0, 0.5)
    assert predictor.snapshot.correction == pytest.approx(3.0)


@pytest.mark.parametrize("waited_s", [0.0, 1e9])
def test_a_correction_is_bounded(waited_s: float) -> None:
    predictor = FirstTokenPredictor()
    for _ in range(10):
        predictor.came(predictor.predict(1.0, 0.0), waited_s=waited_s, first_token_s=waited_s, weight=1.0)
    assert 0.25 <= predictor.snapshot.correction <= 4.0
