"""Whether a result may be timed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from tests.kernels.tolerances import assert_close

REASON = 300  # characters that are kept
MAX_RELATIVE_ERROR = 1e-2  # of the whole tensor, by its norm: some roundings to bf16, of inputs, bridge and output


class WrongAnswer(Exception):
    """What was to be timed computes something else: its time means nothing."""


class Refused:
    """What was not timed because it was wrong, or broke. A run with any of these fails."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def forget(self, names: Sequence[str]) -> None:
        """Drops the reasons of these, which are tried again."""
        self.reasons[:] = [reason for reason in self.reasons if not reason.startswith(tuple(f"{n}: " for n in names))]

    @contextmanager
    def unless_right(self, name: str) -> Iterator[None]:
        """Keeps the reason of a wrong answer, or of none, and goes on after it.

        Args:
            name: who is blamed, and where.
        """
        try:
            yield
        except Exception as wrong:  # noqa: BLE001 - whatever it was: the run says so, and fails in the end
            reason = " ".join(str(wrong).split())
            self.reasons.append(f"{name}: {type(wrong).__name__}: {reason[:REASON]}")


def check_result(actual: Tensor, expected: Tensor, changed: Tensor | None = None) -> None:
    """Compares with float64: each element by the tests' tolerances, and all by their norm.

    Args:
        actual: the result.
        expected: in float64.
        changed: what is added to in place, as it was before; the norm is then that of the change.

    Raises:
        WrongAnswer: with how far it is.
    """
    try:
        assert_close(actual, expected)
    except AssertionError as wrong:
        raise WrongAnswer(str(wrong)) from wrong
    size = (expected if changed is None else expected - changed.double()).norm()
    error = float((actual.double() - expected).norm() / size)
    if not error <= MAX_RELATIVE_ERROR:
        raise WrongAnswer(f"off by {error:.2g} of the norm, {MAX_RELATIVE_ERROR:g} allowed")
