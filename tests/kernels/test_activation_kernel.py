"""SwiGLU's product in Triton: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch

from kernels import activation
from kernels.activation import kernel, naive, reference
from kernels.activation.kernel import hopper
from kernels.device import num_processors
from kernels.linear import naive as naive_linear
from kernels.linear.kernel.whole import arrivals_of
from tests.kernels.buffers import DEVICE, DTYPES, ROUNDED, poisoned, same_bits, untouched
from tests.kernels.recording import recorded
from tests.kernels.tolerances import assert_close

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
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


class GatedLayer:
    """A gated linear layer's input, matrix, and where its results go."""

    def __init__(self, num_rows: int, in_features: int, width: int, dtype: torch.dtype) -> None:
        torch.manual_seed(num_rows + width)
        self.x, _ = poisoned(torch.randn(num_rows, in_features).to(dtype), margin=8)  # rows stay aligned
        self.weight = (torch.randn(2 * width, in_features) * in_features**-0.5).to(dtype).to(DEVICE)
        self.gate_up = torch.full((num_rows, 2 * width), torch.nan, dtype=dtype, device=DEVICE)
        self.around = torch.full((num_rows + 2, width), torch.nan, dtype=dtype, device=DEVICE)
        self.out = self.around[1:-1]

    def run(self, bias: torch.Tensor | None = None) -> torch.Tensor:
        return activation.linear_silu_mul(self.x, self.weight, self.gate_up, self.out, bias)


def take_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tiles wherever they are possible, whether they pay or not."""
    monkeypatch.setattr(hopper, "pays", lambda *_: True)
    monkeypatch.setattr(hopper, "_LEAST_ROWS", 128)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize(("num_rows", "width"), [(0, 8), (1, 24), (37, 100)])
def test_a_gated_linear_layer_follows_the_formula(
    num_rows: int, width: int, dtype: torch.dtype, has_bias: bool
) -> None:
    layer = GatedLayer(num_rows, 48, width, dtype)
    bias = torch.randn(2 * width).to(dtype).to(DEVICE) if has_bias else None
    assert layer.run(bias) is layer.out
    gate_up = naive_linear.linear(layer.x, layer.weight, bias)
    assert_close(layer.out, naive.silu_mul(gate_up))
    assert layer.around[[0, -1]].isnan().all()


@pytest.mark.parametrize("dtype", [pytest.param(DTYPES[name], marks=ON_GPU) for name in ("bf16", "fp16")])
@pytest.mark.parametrize(
    ("num_rows", "in_features", "width"),
    [(128, 512, 64), (129, 100 * 8, 192), (1000, 4096, 14336), (2100, 1032, 704), (4096, 4096, 1024)],
)
def test_whole_tiles_follow_the_formula(
    num_rows: int, in_features: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last tile of rows overlaps the one before, inputs end within a step, programs have a tile, more, or none."""
    take_any(monkeypatch)
    layer = GatedLayer(num_rows, in_features, width, dtype)
    arrivals, processors = arrivals_of(layer.x.device), num_processors(layer.x.device)
    before = arrivals.item()
    layer.run()
    assert (arrivals.item() - before) % processors == 0
    assert arrivals.item() > before
    assert layer.gate_up.isnan().all(), "it was written, which one kernel does not"
    assert_close(layer.out, naive.silu_mul(naive_linear.linear(layer.x, layer.weight)))
    assert layer.around[[0, -1]].isnan().all()
    first = layer.out.clone()
    layer.x[: num_rows // 2].normal_()
    layer.out.fill_(torch.nan)
    layer.run()
    assert same_bits(layer.out[num_rows // 2 :], first[num_rows // 2 :]), "a row's bits depend on other rows"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_a_gated_linear_layer_in_a_graph_replays_with_other_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    take_any(monkeypatch)
    layer = GatedLayer(300, 512, 192, DTYPES["bf16"])
    layer.run()
    with recorded(layer.run) as graph:
        for _ in range(3):
            layer.x.normal_()
            graph.replay()
            replayed = layer.out.clone()
            layer.run()
            assert same_bits(layer.out, replayed)


@pytest.mark.parametrize(
    ("num_rows", "in_features", "width", "is_taken"),
    [pytest.param(*case, marks=ON_GPU) for case in [(511, 512, 64, False), (512, 512, 64, True), (512, 512, 96, False),
     (512, 514, 64, False)]],
)  # fmt: skip
def test_whole_tiles_are_not_for_all(
    num_rows: int, in_features: int, width: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows, columns that are no multiple of 64, rows that begin where TMA does not take them."""
    monkeypatch.setattr(hopper, "pays", lambda *_: True)
    layer = GatedLayer(num_rows, in_features, width, DTYPES["bf16"])
    assert hopper.suits(layer.x, layer.weight, layer.out) == is_taken
    layer.run()
    assert layer.gate_up.isnan().all() == is_taken
    assert_close(layer.out, naive.silu_mul(naive_linear.linear(layer.x, layer.weight)))


# Llama-3-8B's gate and up on an H200, in us: (rows, library and SwiGLU's product in turn, whole tiles).
MEASURED = [(512, 188, 184), (768, 301, 279), (1000, 382, 355), (2048, 776, 729), (4096, 1547, 1416)]


@pytest.mark.parametrize(("num_rows", "in_turn", "whole"), MEASURED)
def test_whole_tiles_are_taken_where_they_were_faster(num_rows: int, in_turn: float, whole: float) -> None:
    assert hopper.pays(num_rows, 4096, 14336, processors=132) == (whole < in_turn)
    assert not hopper.pays(700, 4096, 14336, processors=132), "as many turns as of 768 rows, and the library's took 253"


def test_a_gated_linear_layer_names_a_bad_argument() -> None:
    layer = GatedLayer(4, 16, 8, torch.float32)
    given = {"x": layer.x, "weight": layer.weight, "gate_up": layer.gate_up, "out": layer.out}
    elsewhere = torch.zeros(4, 8, device="meta")
    bad = [({"weight": layer.weight[:, :8]}, "weight"), ({"gate_up": layer.gate_up[:3]}, "out")]
    bad += [({"out": layer.out[:3]}, "out"), ({"out": elsewhere}, "out")]
    for changed, named in bad:
        with pytest.raises(ValueError, match=f"{named} has to be"):
            kernel.linear_silu_mul(**{**given, **changed})
