"""RMSNorm in Triton: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from kernels.norm import kernel, naive, reference
from tests.kernels.buffers import DEVICE, DTYPES, ROUNDED, poisoned, same_bits, untouched
from tests.kernels.tolerances import assert_close

EPSILON = 1e-5
SIZES = [(0, 8), (1, 1), (2, 64), (3, 100), (7, 513), (40, 48)]


def draw(num_rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(num_rows * width)
    hidden, update = torch.randn(2, num_rows, width).to(dtype)
    return hidden, update, (torch.rand(width) + 0.5).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize(("num_rows", "width"), SIZES)
def test_follows_the_formula(num_rows: int, width: int, dtype: torch.dtype) -> None:
    plain, update, weight = draw(num_rows, width, dtype)
    hidden, around = poisoned(plain)
    assert_close(kernel.rms_norm(hidden, weight, EPSILON), naive.rms_norm(hidden, weight, EPSILON))
    update, total = update.to(DEVICE), hidden + update.to(DEVICE)
    out = torch.full((num_rows, width), torch.nan, dtype=dtype, device=DEVICE)
    assert kernel.add_rms_norm(hidden, update, weight, EPSILON, out) is out
    assert same_bits(hidden, total) or dtype not in ROUNDED.values(), "the sum is not the rounded sum"
    assert_close(out, naive.rms_norm(hidden, weight, EPSILON))
    assert untouched(hidden, around)


@pytest.mark.parametrize("num_rows", [133, 512])
def test_batches(num_rows: int) -> None:
    hidden, update, weight = draw(num_rows, 24, torch.bfloat16)
    hidden, update = hidden.to(DEVICE), update.to(DEVICE)
    normed = kernel.add_rms_norm(hidden, update, weight, EPSILON)
    assert_close(normed, naive.rms_norm(hidden, weight, EPSILON))


@pytest.mark.parametrize("dtype", ROUNDED.values(), ids=ROUNDED.keys())
def test_rounds_where_the_reference_does(dtype: torch.dtype) -> None:
    plain, update, weight = draw(64, 96, dtype)
    hidden, update = plain.to(DEVICE), update.to(DEVICE)
    ours = kernel.add_rms_norm(hidden.clone(), update, weight, EPSILON).double()
    theirs = reference.add_rms_norm(hidden.clone(), update, weight, EPSILON).double()
    # The last bit of the mean may differ, so that now and then a value falls to the other side of a rounding.
    assert (ours != theirs).float().mean() < (1.0 if dtype == torch.float32 else 0.01)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=4 * torch.finfo(dtype).eps)


def test_gathers_the_rows_that_are_wanted() -> None:
    plain, update, weight = draw(9, 40, torch.bfloat16)
    hidden, around = poisoned(plain)
    update = update.to(DEVICE)
    before = hidden.clone()
    rows = torch.tensor([8, 0, 3, 3], device=DEVICE)
    expected = naive.rms_norm((hidden + update)[rows], weight, EPSILON)
    assert_close(kernel.gather_rms_norm(hidden, update, rows, weight, EPSILON), expected)
    assert_close(reference.gather_rms_norm(hidden, update, rows, weight, EPSILON), expected)
    assert same_bits(hidden, before)
    assert untouched(hidden, around)


def test_a_row_has_the_same_bits_whatever_is_beside_it() -> None:
    plain, update, weight = draw(33, 100, torch.bfloat16)
    hidden, update = plain.to(DEVICE), update.to(DEVICE)
    together = kernel.add_rms_norm(hidden.clone(), update, weight, EPSILON)
    again = kernel.add_rms_norm(hidden.clone(), update, weight, EPSILON)
    alone = [kernel.add_rms_norm(hidden[i : i + 1].clone(), update[i : i + 1], weight, EPSILON) for i in range(33)]
    assert same_bits(together, again)
    assert same_bits(together, torch.cat(alone))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_a_graph_sees_new_contents() -> None:
    plain, update, weight = draw(64, 4096, torch.bfloat16)
    hidden, update = plain.to(DEVICE), update.to(DEVICE)
    kernel.add_rms_norm(hidden, update, weight, EPSILON)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = kernel.add_rms_norm(hidden, update, weight, EPSILON)
    for _ in range(3):
        hidden.copy_(torch.randn_like(hidden))
        expected = reference.add_rms_norm(hidden.clone(), update, weight, EPSILON).double()
        output.fill_(torch.nan)
        graph.replay()
        assert_close(output, expected)


@pytest.mark.parametrize("name", ["hidden", "weight", "update", "out", "rows"])
def test_a_bad_argument_is_named(name: str) -> None:
    good = {
        "hidden": torch.zeros(4, 8, device=DEVICE),
        "weight": torch.zeros(8, device=DEVICE),
        "update": torch.zeros(4, 8, device=DEVICE),
        "out": torch.zeros(4, 8, device=DEVICE),
        "rows": torch.zeros(2, dtype=torch.int64, device=DEVICE),
    }
    bad = {
        "hidden": [good["hidden"][0], good["hidden"].t(), good["hidden"].int(), good["hidden"][:, :0]],
        "weight": [good["weight"][:7], good["weight"].half(), torch.zeros(8, 2, device=DEVICE)[:, 0], good["hidden"]],
        "update": [good["update"][:3], good["update"].half(), torch.zeros(8, 4, device=DEVICE).t()],
        "out": [good["out"][:3], good["out"].half(), torch.zeros(8, 4, device=DEVICE).t()],
        "rows": [good["rows"].int(), good["hidden"], torch.zeros(4, dtype=torch.int64, device=DEVICE)[::2]],
    }
    for tensor in bad[name]:
        given = {**good, name: tensor}
        pair = (given["hidden"], given["update"])
        with pytest.raises(ValueError, match=name):
            _ = (
                kernel.gather_rms_norm(*pair, given["rows"], given["weight"], EPSILON)
                if name == "rows"
                else kernel.add_rms_norm(*pair, given["weight"], EPSILON, given["out"])
            )
