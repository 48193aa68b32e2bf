"""Writes to the page pool."""

from kernels.paging.op import write_kv

__all__ = ["write_kv"]
