"""How kernels are launched, and how they are compiled side by side before that."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

_compiles_only = ContextVar("compiles_only", default=False)


def launch(kernel: Any, grid: tuple[int, ...], /, *arguments: Any, **options: Any) -> None:
    """Launches a kernel of Triton. While `compiling`, asks for its compilation for these arguments instead."""
    kernel.run(*arguments, grid=grid, warmup=_compiles_only.get(), **options)


@contextmanager
def compiling(device: torch.device) -> Iterator[None]:
    """Until the end of the block no kernel is launched: those asked for are compiled in threads, and there at the end.

    So nobody writes what ops return meanwhile. What torch computes by itself it does compute.

    Args:
        device: The current GPU, with its index.
    """
    from triton.runtime._async_compile import AsyncCompileMode  # noqa: PLC0415 - a worker on a CPU never imports Triton

    token = _compiles_only.set(True)
    try:
        with (
            ThreadPoolExecutor(initializer=torch.cuda.set_device, initargs=(device,)) as threads,
            AsyncCompileMode(_Compilers(threads)),
        ):
            yield
    finally:
        _compiles_only.reset(token)


@dataclass(frozen=True, slots=True)
class _Compilers:
    """What Triton asks of an executor."""

    threads: ThreadPoolExecutor

    def submit(self, compile_kernel: Callable[[], Any]) -> "Future[Any]":
        return self.threads.submit(_load, compile_kernel)


def _load(compile_kernel: Callable[[], Any]) -> Any:
    """Loads the kernel, too: for its first launch Triton 3.6 runs a C compiler."""
    kernel = compile_kernel()
    kernel._init_handles()  # noqa: SLF001 - which a launch would do
    return kernel
