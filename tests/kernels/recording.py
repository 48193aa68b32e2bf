"""Recordings of what a GPU is given to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def recorded(run: Callable[[], object]) -> Iterator[torch.cuda.CUDAGraph]:
    """What `run` launches as a graph, on a stream of its own, on which all is that the block does, too."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        run()
        graph.capture_end()
        yield graph
