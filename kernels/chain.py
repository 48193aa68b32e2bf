"""Programmatic dependent launch: a kernel that begins while the one before it ends."""

from functools import cache

import torch


@cache
def chained(device: torch.device) -> dict[str, bool]:
    """Options of a kernel that, where `CHAINED`, waits for the one before it and then lets the next one begin."""
    is_chained = device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 9
    return {"CHAINED": True, "launch_pdl": True} if is_chained else {"CHAINED": False}
