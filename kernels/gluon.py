"""What Gluon calls differently in Triton 3.6 and after it."""

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

_MEMORY = gl.shared_memory_descriptor

ASYNC_LOAD = gl.constexpr(tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared)
ASYNC_STORE = gl.constexpr(tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global)
BARRIER = gl.constexpr(gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier)
REINTERPRET = gl.constexpr(
    _MEMORY.reinterpret if hasattr(_MEMORY, "reinterpret") else _MEMORY._reinterpret  # noqa: SLF001
)
