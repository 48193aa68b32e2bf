"""What Hopper kernels in Gluon share: names that differ in Triton 3.6 and after it, and how TMA lays memory out."""

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import tma

# Rows of 128 bytes of half precision, swizzled as wgmma reads them.
SWIZZLED = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
_MEMORY = gl.shared_memory_descriptor

ASYNC_LOAD = gl.constexpr(tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared)
ASYNC_STORE = gl.constexpr(tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global)
ASYNC_COPY = gl.constexpr(
    async_copy.async_load if hasattr(async_copy, "async_load") else async_copy.async_copy_global_to_shared
)
BARRIER = gl.constexpr(gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier)
REINTERPRET = gl.constexpr(
    _MEMORY.reinterpret if hasattr(_MEMORY, "reinterpret") else _MEMORY._reinterpret  # noqa: SLF001
)
