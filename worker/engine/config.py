"""The engine's bounds."""

from dataclasses import dataclass

from worker.types import BatchSize

# Weights are read at the same speed for 1 to 64 rows, so larger steps cost little there, and captures are few.
_DECODE_ROWS = (1, 2, 4, 8, 16, 32, 48, *range(64, 256, 32), *range(256, 4096, 64))
_CHUNK_ROWS = 64  # a step of some hundred rows takes as long as its arithmetic: half of this are computed in vain


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds of the engine; every default exists here only.

    Attributes:
        context_length: Most tokens of a sequence, prompt and output together.
        block_size: Tokens whose KV a page holds.
        max_step_tokens: Most tokens computed in one step, over all sequences; at least `max_running`, so that every
            running sequence can decode in every step.
        max_running: Most sequences in the batch.
        max_waiting: Most sequences that wait; one more is refused.
        max_skips: How often sequences may be admitted past one whose adapter finds no room, before nobody is.
        admission_window: How many waiting sequences a step looks at, at most.
        watermark: Share of the pool that an admission leaves free while others run, for their next blocks.
        max_step_load_bytes: Adapters copied to the pool before one step, so that the copies are hidden under the step
            before it; more where that takes long. A single adapter may be larger; sequences that wait for it then
            start once it is there.
        prefetch_window: Of so many waiting sequences adapters are copied to the pool before their turn, as far as
            `max_step_load_bytes` and the pool leave room, but for half of `watermark`; 0: of none.
        max_rank: Largest rank of an adapter; one with a larger is refused, as what was recorded and compiled has no
            room for it. 0: any; where something was recorded, a larger one than before holds up everybody for seconds.
        max_graph_rows: Steps of up to so many rows are recorded as CUDA graphs and replayed; 0: none.
        overlap: Whether a step is planned while the device runs the one before; of use where the two are not the same
            processor.
    """

    context_length: int
    block_size: int = 16
    max_step_tokens: int = 512
    max_running: int = 64
    max_waiting: int = 4096
    max_skips: int = 32
    admission_window: int = 256
    watermark: float = 0.02
    max_step_load_bytes: int = 128 * 1024 * 1024  # 2.6 ms over a bus of 50 GB/s, less than the shortest step
    prefetch_window: int = 64
    max_rank: int = 0
    max_graph_rows: int = 0
    overlap: bool = False

    def __post_init__(self) -> None:
        counts = (
            self.context_length,
            self.block_size,
            self.max_running,
            self.max_waiting,
            self.admission_window,
            self.max_step_load_bytes,
        )
        if min(counts) < 1 or min(self.max_skips, self.max_graph_rows, self.prefetch_window, self.max_rank) < 0:
            raise ValueError(
                "every bound of the engine must be at least 1, and max_skips, max_graph_rows, max_rank and "
                "prefetch_window at least 0"
            )
        if self.max_step_tokens < self.max_running:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running ({self.max_running}): "
                "every running sequence decodes one token a step"
            )
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark ({self.watermark}) must be in [0, 1)")

    @property
    def decode_sizes(self) -> tuple[BatchSize, ...]:
        """Of the batches of decodes that are recorded; a batch is filled up to the next of them."""
        most = min(self.max_graph_rows, self.max_running)
        rows = [size for size in _DECODE_ROWS if size < most] + ([most] if most else [])
        return tuple(BatchSize(size, size, is_decode=True) for size in rows)

    @property
    def chunk_sizes(self) -> tuple[BatchSize, ...]:
        """Of the other batches that are recorded, those with prompts in them."""
        most = min(self.max_graph_rows, self.max_step_tokens)
        rows = [*range(_CHUNK_ROWS, most, _CHUNK_ROWS), *([most] if most else [])]
        return tuple(BatchSize(size, min(size, self.max_running), is_decode=False) for size in rows)
