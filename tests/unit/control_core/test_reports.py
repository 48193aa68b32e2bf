import math
from dataclasses import replace

import pytest

from control_plane.core.reports import in_range
from tests.unit.control_core.makers import status

GOOD = status(window=4, free_pages=50, num_prefill_tokens=10)


def test_a_report_that_can_be_is_left_alone() -> None:
    assert in_range(GOOD) is GOOD


@pytest.mark.parametrize(
    ("field", "value", "mended"),
    [
        ("request_window", -3, 0),
        ("pending_prefill_tokens", -(10**9), 0),
        ("num_prefill_tokens", 1 << 80, 1 << 62),
        ("free_pages", 101, 100),
        ("kv_pages", -1, 0),
        ("block_size", 0, 1),
        ("step_ms", math.nan, 0.0),
        ("step_ms", -1.0, 0.0),
        ("step_ms", math.inf, 0.0),
    ],
)
def test_a_report_that_cannot_be_is_brought_into_range(field: str, value: float, mended: float) -> None:
    found = in_range(replace(GOOD, **{field: value}))
    assert getattr(found, field) == mended
    assert replace(found, **{field: getattr(GOOD, field)}) == GOOD
