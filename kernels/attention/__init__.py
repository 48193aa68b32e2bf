"""Attention over the page pool."""

from kernels.attention.batch import AttentionBatch
from kernels.attention.op import paged_attention

__all__ = ["AttentionBatch", "paged_attention"]
