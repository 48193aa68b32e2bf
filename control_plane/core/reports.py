"""What a worker says of itself, brought into the range of what can be."""

import math
from dataclasses import fields, replace
from typing import Any

from control_plane.core.types import WorkerStatus

_MOST = 1 << 62
_COUNTS = tuple(field.name for field in fields(WorkerStatus) if field.type is int)


def in_range(status: WorkerStatus) -> WorkerStatus:
    """The report itself if it can be; else one with every number in range, as little as can be said where it is not.

    A broken worker must not break the others' service: a negative window is one of no place, a time that is no number
    is unknown, and there are never more free pages than pages.
    """
    mended: dict[str, Any] = {
        name: min(max(value, 0), _MOST) for name in _COUNTS if not 0 <= (value := getattr(status, name)) <= _MOST
    }
    if not (math.isfinite(status.step_ms) and status.step_ms >= 0):
        mended["step_ms"] = 0.0
    if status.block_size < 1:
        mended["block_size"] = 1
    total_pages = mended.get("total_pages", status.total_pages)
    for name in ("free_pages", "kv_pages", "adapter_pages"):
        if mended.get(name, getattr(status, name)) > total_pages:
            mended[name] = total_pages
    return replace(status, **mended) if mended else status
