"""Kernels are launched, or compiled side by side: on a GPU where there is one, else in Triton's interpreter."""

from typing import Any

import pytest
import torch

from kernels.launch import compiling, launch
from kernels.norm import kernel, naive
from tests.kernels.buffers import DEVICE
from tests.kernels.tolerances import assert_close

EPSILON = 1e-5


class Kernel:
    def __init__(self) -> None:
        self.warm_ups: list[bool] = []

    def run(self, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        assert (arguments, grid, options) == ((1, "x"), (2, 3), {"WIDTH": 4, "num_warps": 8})
        self.warm_ups.append(warmup)

    def launch(self) -> None:
        launch(self, (2, 3), 1, "x", WIDTH=4, num_warps=8)


def current_device() -> torch.device:
    return torch.device(DEVICE, torch.cuda.current_device()) if DEVICE == "cuda" else torch.device(DEVICE)


def test_launches_but_while_compiling() -> None:
    asked = Kernel()
    asked.launch()
    with compiling(current_device()):
        asked.launch()
    asked.launch()
    with pytest.raises(ZeroDivisionError), compiling(current_device()):
        raise ZeroDivisionError
    asked.launch()
    assert asked.warm_ups == [False, True, False, False]


def test_nothing_is_written_while_compiling() -> None:
    hidden, weight = torch.randn(3, 40).to(DEVICE), torch.rand(40).to(DEVICE)
    out = torch.full_like(hidden, torch.nan)
    with compiling(current_device()):
        assert kernel.rms_norm(hidden, weight, EPSILON, out) is out
    assert out.isnan().all()
    assert_close(kernel.rms_norm(hidden, weight, EPSILON, out), naive.rms_norm(hidden, weight, EPSILON))


@pytest.mark.gpu
def test_what_was_asked_for_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE != "cuda":
        pytest.skip("no CUDA device here")
    import triton

    compiled: list[str] = []
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_post_compile_hook", lambda **event: compiled.append(event["fn"].name)
    )
    hidden, weight = torch.randn(3, 5001, device=DEVICE), torch.rand(5001, device=DEVICE)  # a width of no other test
    with compiling(current_device()):
        for _ in range(2):
            kernel.rms_norm(hidden, weight, EPSILON)
    assert compiled == ["_norm_rows"]
    assert_close(kernel.rms_norm(hidden, weight, EPSILON), naive.rms_norm(hidden, weight, EPSILON))
    assert compiled == ["_norm_rows"]
