"""Linear layers: the reference on a CPU, the kernel on a GPU where there is one."""

import pytest
import torch

from kernels.linear import kernel, linear, naive
from kernels.linear.kernel.tiles import Tiles
from tests.kernels.buffers import DEVICE, DTYPES, poisoned, same_bits, untouched
from tests.kernels.tolerances import assert_close

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
# Several blocks and parts of blocks, tiles that end outside of the matrix, a last step that is not full.
SIZES = [(1, 8), (64, 64), (72, 4096), (200, 1032), (4096, 512), (9000, 264)]
ROWS = [1, 2, 3, 7, 8, 9, 16, 33, 64, 65, 133]


def draw(
    num_rows: int, out_features: int, in_features: int, dtype: torch.dtype, *, has_bias: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(num_rows + out_features)
    x = torch.randn(num_rows, in_features).to(dtype).to(DEVICE)
    weight = (torch.randn(out_features, in_features) * in_features**-0.5).to(dtype).to(DEVICE)
    return x, weight, torch.randn(out_features).to(dtype).to(DEVICE) if has_bias else None


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("out_features", "in_features"), SIZES)
@pytest.mark.parametrize("num_rows", [0, *ROWS])
def test_follows_the_formula(
    num_rows: int, out_features: int, in_features: int, has_bias: bool, dtype: torch.dtype
) -> None:
    x, weight, bias = draw(num_rows, out_features, in_features, dtype, has_bias=has_bias)
    out, around = poisoned(torch.full((num_rows, out_features), torch.nan, dtype=dtype))
    before = x.clone()
    assert linear(x, weight, out, bias) is out
    assert_close(out, naive.linear(x, weight, bias))
    assert same_bits(x, before)
    assert untouched(out, around)


def test_a_bad_argument_is_named() -> None:
    x, weight, bias = draw(4, 24, 16, torch.bfloat16, has_bias=True)
    out = x.new_empty(4, 24)
    for bad in (x[0], x.int(), x.t()):
        with pytest.raises(ValueError, match="x has to be"):
            kernel.linear(bad, weight, out)
    for bad in (weight[0], weight[:, :8], weight.half(), weight.t().contiguous().t()):
        with pytest.raises(ValueError, match="weight has to be"):
            kernel.linear(x, bad, out)
    for bad in (out[:3], out[:, :8], out.half(), x.new_empty(24, 4).t()):
        with pytest.raises(ValueError, match="out has to be"):
            kernel.linear(x, weight, bad)
    for bad in (bias[:8], bias.half(), bias[None], x.new_empty(48)[::2]):
        with pytest.raises(ValueError, match="bias has to be"):
            kernel.linear(x, weight, out, bad)


@pytest.mark.parametrize("out_features", [1024, 1280, 4096, 12288, 128256])
def test_parts_follow_from_the_matrix_and_the_regime(out_features: int) -> None:
    for rows in (range(1, 33), range(33, 65)):
        assert len({tiles and tiles.parts for tiles in (Tiles.of(num_rows, out_features) for num_rows in rows)}) == 1
    assert Tiles.of(65, out_features) is None


@pytest.mark.parametrize("dtype", [pytest.param(DTYPES[name], marks=ON_GPU) for name in ("bf16", "fp16")])
@pytest.mark.parametrize("out_features", [1280, 4100], ids=["narrow", "wide"])
def test_a_row_does_not_depend_on_the_others(out_features: int, dtype: torch.dtype) -> None:
    x, weight, bias = draw(64, out_features, 1056, dtype, has_bias=True)
    for least, most in ((1, 32), (33, 64)):
        together = linear(x[:most], weight, x.new_empty(most, out_features), bias)
        for num_rows in range(least, most):
            alone = linear(x[:num_rows], weight, x.new_empty(num_rows, out_features), bias)
            assert same_bits(alone, together[:num_rows]), num_rows
            shifted = linear(x[most - num_rows : most], weight, x.new_empty(num_rows, out_features), bias)
            assert same_bits(shifted, together[most - num_rows :]), num_rows


@pytest.mark.parametrize("num_rows", [pytest.param(rows, marks=ON_GPU) for rows in (1, 20, 64, 100)])
def test_a_chain_in_a_graph_replays_with_other_inputs(num_rows: int) -> None:
    """Each layer reads what the one before wrote, though it begins before that has ended."""
    width, num_layers = 4096, 12
    weights = [draw(1, width, width, torch.bfloat16)[1].roll(layer, 0) for layer in range(num_layers)]
    rows = [torch.randn(num_rows, width).bfloat16().to(DEVICE) for _ in range(2)]

    def run() -> torch.Tensor:
        for layer, weight in enumerate(weights):
            linear(rows[layer % 2], weight, rows[1 - layer % 2], chained=True)
        return rows[num_layers % 2]

    torch.cuda.synchronize()
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    for seed in range(5):
        torch.manual_seed(seed)
        start = torch.randn(num_rows, width).bfloat16().to(DEVICE)
        expected = start
        for weight in weights:
            expected = linear(expected, weight, torch.empty_like(expected))
            torch.cuda.synchronize()
        rows[0].copy_(start)
        graph.replay()
        assert same_bits(output, expected)
