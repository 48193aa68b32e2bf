"""Service models of measured machines, by name; `multitude policy simulate --cost NAME` begins with one."""

from collections.abc import Mapping
from typing import Final

from control_plane.simulation.service import ServiceModel

H200_LLAMA_7B = ServiceModel(
    step_s=0.003236,
    sequence_s=1.761e-05,
    context_s=1.284e-07,
    rank_s=1.145e-06,
    prefill_s=0.0,
    token_s=1.761e-05,
    load_s_per_gb=0.01832,
    pool_tokens=203_677,
    bytes_per_token=524_288,
)
"""Llama-7B with adapters on q, k, v and o on one NVIDIA H200, as our own engine serves it: what
`python -m benchmarks.calibration benchmarks/results/serve-s1-engine-h200.json` prints, from runs without adapters and
with 2,000. One with 100 lasts 3 % less than was measured. Prompts ride along with decodes."""

H200_LLAMA_8B = ServiceModel(
    step_s=0.0041,
    sequence_s=1.1e-5,
    context_s=3.05e-8,
    rank_s=1.22e-6,
    prefill_s=0.0041,
    token_s=2.28e-5,
    pool_tokens=800_000,
    bytes_per_token=131_072,
    load_s_per_gb=0.0183,
)
"""Llama-3-8B with adapters on every linear on one NVIDIA H200, by measurements of its parts: the linear layers of a
step take 4.06 ms with one row, 6.86 ms with 256, 23.35 ms with 1024; 131,072 bytes of KV a token and 5.24 MB of an
adapter for each rank are read at 4.3 TB/s; pinned host memory is read at 54.6 GB/s; 105 GB are left for the pool."""

NAMED: Final[Mapping[str, ServiceModel]] = {
    "h200-llama-7b": H200_LLAMA_7B,
    "h200-llama-8b": H200_LLAMA_8B,
}
