"""When first tokens come: predicted from what was measured, and corrected by how the predictions did."""

from dataclasses import dataclass

from control_plane.core.estimators import Ewma
from control_plane.core.types import Request, ResidencyTier

# A correction may make waits this much longer or shorter, so that a strange minute cannot refuse everybody.
_MAX_CORRECTION = 4.0
# Waits below this, in seconds, say nothing of the correction.
_LEAST_WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class Prediction:
    """A request's first token, as expected when it arrived: after the wait for its turn, and from dispatch on."""

    wait_s: float
    raw_wait_s: float
    service_s: float
    least_wait_s: float = 0.0
    """The wait if the queue were served as fast as it ever was."""

    @property
    def first_token_s(self) -> float:
        """Seconds from arrival."""
        return self.wait_s + self.service_s


@dataclass(frozen=True, slots=True)
class PredictorSnapshot:
    """How the predictions did, in seconds; positive bias: first tokens came later than predicted."""

    num_samples: int = 0
    mean_absolute_error_s: float = 0.0
    bias_s: float = 0.0
    correction: float = 1.0
    """By what predicted waits are multiplied."""
    overhead_s: float = 0.0
    """From dispatch to first token, beyond the prompt's own time and the adapter's load."""


class FirstTokenPredictor:
    """Learns the time from dispatch to first token beyond the prompt's own, by tier, and how far waits were off."""

    def __init__(self) -> None:
        self._overhead = Ewma()
        self._load_s_per_byte = {ResidencyTier.HOST: Ewma(), ResidencyTier.NONE: Ewma()}
        self._correction = Ewma()
        self._absolute_error = Ewma()
        self._bias = Ewma()
        self._num_samples = 0

    @property
    def snapshot(self) -> PredictorSnapshot:
        """For metrics."""
        error_s, bias_s = self._absolute_error.value or 0.0, self._bias.value or 0.0
        return PredictorSnapshot(self._num_samples, error_s, bias_s, self._factor, self._overhead.value or 0.0)

    def service_s(self, request: Request, prefill_s: float, tier: ResidencyTier) -> float:
        """Expected time from dispatch to first token, for a prompt that takes `prefill_s` alone."""
        load_s = 0.0
        if request.adapter is not None and tier in self._load_s_per_byte:
            load_s = request.adapter.size_bytes * (self._load_s_per_byte[tier].value or 0.0)
        return prefill_s + (self._overhead.value or 0.0) + load_s

    def predict(self, raw_wait_s: float, service_s: float, least_wait_s: float = 0.0) -> Prediction:
        """The first token of a request that waits as long as the queue's drain says."""
        return Prediction(raw_wait_s * self._factor, raw_wait_s, service_s, least_wait_s)

    def served(self, request: Request, prefill_s: float, tier: ResidencyTier, taken_s: float, weight: float) -> None:
        """A first token came `taken_s` after dispatch."""
        beyond_s = max(0.0, taken_s - prefill_s)
        if request.adapter is None or tier not in self._load_s_per_byte or not request.adapter.size_bytes:
            self._overhead.add(beyond_s, weight)
            return
        load_s = max(0.0, beyond_s - (self._overhead.value or 0.0))
        self._load_s_per_byte[tier].add(load_s / request.adapter.size_bytes, weight)

    def came(self, prediction: Prediction, waited_s: float, first_token_s: float, weight: float) -> None:
        """A request's first token came after so long, of which it waited so long for its dispatch."""
        self._num_samples += 1
        error_s = first_token_s - prediction.first_token_s
        self._absolute_error.add(abs(error_s), weight)
        self._bias.add(error_s, weight)
        self._correct(prediction, waited_s, weight)

    def dropped(self, prediction: Prediction, waited_s: float, weight: float) -> None:
        """A request was given up after so long a wait; it would have been longer."""
        if waited_s > prediction.wait_s:
            self._correct(prediction, waited_s, weight)

    @property
    def _factor(self) -> float:
        return self._correction.value or 1.0

    def _correct(self, prediction: Prediction, waited_s: float, weight: float) -> None:
        if prediction.raw_wait_s >= _LEAST_WAIT_S:
            ratio = waited_s / prediction.raw_wait_s
            self._correction.add(min(max(ratio, 1 / _MAX_CORRECTION), _MAX_CORRECTION), weight)
