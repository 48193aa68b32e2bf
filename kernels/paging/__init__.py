"""Writes to the page pool."""

from kernels.paging.op import copy_pages, write_kv

__all__ = ["copy_pages", "write_kv"]
