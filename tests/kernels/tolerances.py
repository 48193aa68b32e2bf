"""The one tolerance table: how far an implementation may be from the formula in float64, for data of unit size."""

import torch
from torch import Tensor

# bfloat16 keeps 8 bits: a relative 2**-9 for each rounding, of inputs that grow to about 4 and intermediate results.
TOLERANCES = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.float16: {"atol": 4e-3, "rtol": 2e-3},  # 11 bits
    torch.bfloat16: {"atol": 3e-2, "rtol": 1.6e-2},
}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    allowed = TOLERANCES[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, atol=allowed["atol"], rtol=allowed["rtol"])
