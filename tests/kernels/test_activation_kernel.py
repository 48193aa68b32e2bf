"""SwiGLU's product in Triton: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch

from kernels.activation import kernel, naive, reference
from tests.kernels.buffers import DEVICE, DTYPES, ROUNDED, poisoned, same_bits, untouched
from tests.kernels.tolerances import assert_close

SIZES = [(0, 8), (1, 1), (2, 64), (3, 100), (7, 2049), (40, 48)]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize(("num_rows", "width"), SIZES)
def test_follows_the_formula(num_rows: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(num_rows * width)
    gate_up, around = poisoned((torch.randn(num_rows, 2 * width) * 2).to(dtype))
    before = gate_up.clone()
    out = torch.full((num_rows, width), torch.nan, dtype=dtype, device=DEVICE)
    assert kernel.silu_mul(gate_up, out) is out
    assert_close(out, naive.silu_mul(gate_up))
    assert_close(reference.silu_mul(gate_up), naive.silu_mul(gate_up))
    assert same_bits(kernel.silu_mul(gate_up), out), "the same input gave other bits"
    assert same_bits(gate_up, before)
    assert untouched(gate_up, around)


@pytest.mark.parametrize("num_rows", [133, 512])
def test_batches(num_rows: int) -> None:
    gate_up = torch.randn(num_rows, 48, generator=torch.Generator().manual_seed(num_rows)).bfloat16().to(DEVICE)
    assert_close(kernel.silu_mul(gate_up), naive.silu_mul(gate_up))


@pytest.mark.parametrize("dtype", ROUNDED.values(), ids=ROUNDED.keys())
def test_rounds_where_the_reference_does(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    gate_up = (torch.randn(64, 192) * 2).to(dtype).to(DEVICE)
    ours, theirs = kernel.silu_mul(gate_up), reference.silu_mul(gate_up)
    # The last bit of a sigmoid may differ, so that now and then a value falls to the other side of a rounding.
    assert (ours != theirs).float().mean() < (1.0 if dtype == torch.float32 else 0.01)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=4 * torch.finfo(dtype).eps)


def test_large_gates_stay_finite() -> None:
    gate_up = torch.tensor([[-1e4, 1e4, -100.0, 100.0, 1.0, 1.0, 1.0, 1.0]], device=DEVICE)
    torch.testing.assert_close(kernel.silu_mul(gate_up), reference.silu_mul(gate_up))


def test_a_bad_argument_is_named() -> None:
    good = torch.zeros(4, 8, device=DEVICE)
    for bad in (good[0], good[:, :7], good.int(), torch.zeros(8, 4, device=DEVICE).t()):
        with pytest.raises(ValueError, match="gate_up has to be"):
            kernel.silu_mul(bad)
    for bad in (good, good[:3, :4], good[:, :4], torch.zeros(4, 4, device=DEVICE).half()):
        with pytest.raises(ValueError, match="out has to be"):
            kernel.silu_mul(good, bad)
