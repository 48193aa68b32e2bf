"""Programmatic dependent launch: a kernel that begins while the one before it ends."""

from functools import cache

import torch

from kernels.device import num_processors


@cache
def chained(device: torch.device) -> dict[str, bool]:
    """Options of a kernel that, where `CHAINED`, lets the next one begin at once, and then waits for the one before it.

    Before it waits it may read what was there when the step began or a launch that was not chained has made since. At
    least one of its programs has to wait: the next kernel takes its end for the end of all that came before.
    """
    is_chained = device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 9
    return {"CHAINED": True, "launch_pdl": True} if is_chained else {"CHAINED": False}


@cache
def resident(
    device: torch.device, each: int, *, registers: int, is_chained: bool = True
) -> tuple[int, dict[str, int | bool]]:
    """As many programs as the device holds at a time, `each` on a processor, and how they are launched."""
    chain = chained(device) if is_chained else {"CHAINED": False}
    if device.type == "cpu":  # Triton's interpreter
        return 2, {**chain}
    return each * num_processors(device), {"maxnreg": registers, **chain}
