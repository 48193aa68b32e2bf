"""Programmatic dependent launch: a kernel that begins while the one before it ends."""

from functools import cache

import torch


@cache
def chained(device: torch.device) -> dict[str, bool]:
    """Options of a kernel that, where `CHAINED`, lets the next one begin at once, and then waits for the one before it.

    Before it waits it may read what was there when the step began or a launch that was not chained has made since. At
    least one of its programs has to wait: the next kernel takes its end for the end of all that came before.
    """
    is_chained = device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 9
    return {"CHAINED": True, "launch_pdl": True} if is_chained else {"CHAINED": False}
