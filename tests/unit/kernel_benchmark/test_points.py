"""What the benchmark of the kernels counts: rows, bytes, products, goals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kernels import attention, lora_grid, lora_layer
from benchmarks.kernels.floors import Ceilings, Work, adapter_work, attention_work, linear_work, lora_work
from benchmarks.kernels.popularity import rows_per_adapter
from benchmarks.kernels.shapes import MODELS

M2 = MODELS["llama-3-8b"]
S1 = MODELS["llama-7b"]


@given(
    popularity=st.sampled_from(["identical", "uniform", "zipf", "even"]),
    rows=st.integers(1, 300),
    adapters=st.integers(1, 40),
)
def test_every_row_has_an_adapter(popularity, rows, adapters):
    counts = rows_per_adapter(popularity, rows, adapters)
    assert len(counts) == adapters
    assert sum(counts) == rows
    assert min(counts) >= 0
    assert counts == rows_per_adapter(popularity, rows, adapters), "the same workload in every run"


def test_popularities_by_hand():
    assert rows_per_adapter("identical", 5, 3) == [5, 0, 0]
    assert rows_per_adapter("distinct", 3, 3) == [1, 1, 1]
    assert rows_per_adapter("even", 10, 4) == [2, 3, 2, 3]
    zipf = rows_per_adapter("zipf", 10_000, 4)
    assert zipf == sorted(zipf, reverse=True)
    assert zipf[0] == pytest.approx(10_000 * 12 / 25, rel=0.05)  # 1 of 1 + 1/2 + 1/3 + 1/4
    with pytest.raises(ValueError, match="as many adapters as rows"):
        rows_per_adapter("distinct", 3, 2)


def test_adapter_bytes_are_those_of_an_adapter():
    """An adapter of rank 16 on every linear of Llama-3-8B is 84 MB in 32 layers; rank 8 on q k v o of 7B is 16.8 MB."""
    row_bytes = 2 * (3 * 4096 + 14336 + 2 * (6144 + 4096 + 28672 + 4096))  # x of each group; outputs read and written
    assert lora_work(M2, [16], [1]).num_bytes == 32 * (6144 + 4096 + 28672 + 4096 + 4096 * 6 + 14336) + row_bytes
    assert 32 * (lora_work(M2, [16], [1]).num_bytes - row_bytes) == pytest.approx(84e6, rel=0.01)
    row_bytes = 2 * (2 * 4096 + 2 * 4 * 4096)
    assert 32 * (lora_work(S1, [8], [1]).num_bytes - row_bytes) == pytest.approx(16.8e6, rel=0.01)
    assert lora_work(S1, [8, 4], [1, 0]) == adapter_work(S1, [8, 4], [1, 0]) + Work(row_bytes)


def test_lora_counts_live_adapters_and_true_ranks():
    one, other = lora_work(M2, [8], [3]), lora_work(M2, [64], [2])
    both = lora_work(M2, [8, 16, 64], [3, 0, 2])
    assert both == one + other, "an adapter without rows is not read"
    assert other.flops == 2 * 2 * 64 * (4096 * 3 + 6144 + 4096 * 2 + 4096 * 2 + 28672 + 14336 + 4096)


def test_linear_work_is_the_weights_and_the_rows():
    assert linear_work(M2, 0) == Work(2 * (4096 * 6144 + 4096 * 4096 + 4096 * 28672 + 14336 * 4096))
    assert linear_work(M2, 8192).flops == 2 * 8192 * 218_103_808


def test_attention_work_by_hand():
    decode = attention_work(M2, [(1000, 1), (24, 1)])
    assert decode.num_bytes == 2 * (1024 * 2 * 8 * 128 + 2 * 2 * 32 * 128)
    assert decode.flops == 4 * 32 * 128 * 1024
    prefill = attention_work(M2, [(8, 3)])
    assert prefill.flops == 4 * 32 * 128 * (6 + 7 + 8)
    windowed = attention_work(M2, [(8, 3)], window=4)
    assert windowed.flops == 4 * 32 * 128 * 3 * 4
    assert windowed.num_bytes == 2 * (6 * 2 * 8 * 128 + 2 * 3 * 32 * 128), "the first row sees from position 2 on"


def test_a_floor_is_the_larger_time():
    ceilings = Ceilings(bytes_per_s=2e12, flops_per_s=1e15)
    assert ceilings.floor_us(Work(4_000_000, 1_000_000_000)) == 2.0
    assert ceilings.floor_us(Work(4_000_000, 3_000_000_000)) == 3.0


def test_the_grid_spans_what_it_says():
    points = lora_grid.all_points()
    assert len(points) == len(set(points)), "no point twice"
    assert len({point.name for point in points}) == len(points)
    assert set(lora_grid.quick_points()) <= set(points)
    decodes = [point for point in points if point.phase == "decode"]
    assert {1, 1024} <= {point.num_rows for point in decodes}
    assert {1, 512} <= {len(point.rows) for point in points} | {point.num_adapters for point in points}
    assert {point.popularity for point in decodes} == {"identical", "distinct", "uniform", "zipf"}
    assert {8, 16, 32, 64} <= {point.ranks[0] for point in points if len(point.ranks) == 1}
    assert {point.model for point in points} == set(MODELS)
    assert set(lora_layer.quick_points()) <= set(lora_layer.all_points())
    layers = lora_layer.all_points()
    assert len({point.name for point in layers}) == len(layers)
    assert {point for point in layers if not point.prompts} <= set(points), "each is also measured alone"
    served = [point for point in layers if point.prompts]
    assert {point.phase for point in served} == {"mixed"}
    assert all(sum(point.rows) == point.num_rows and point.rows[-1] == point.prompts[-1] for point in served)
    attended = attention.all_points()
    assert len({point.name for point in attended}) == len(attended)
