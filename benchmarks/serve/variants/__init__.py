"""The engine without one of its ideas at a time: what each is worth."""

from benchmarks.serve.variants.no_prefetch import NoPrefetch
from benchmarks.serve.variants.padded_bmm import PaddedBmm
from benchmarks.serve.variants.static_split import StaticSplit
from benchmarks.serve.variants.unified import Unified

__all__ = ["NoPrefetch", "PaddedBmm", "StaticSplit", "Unified"]
