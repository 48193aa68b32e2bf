"""The engine's bounds."""

from dataclasses import dataclass


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
            before it; a single adapter may be larger.
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
    max_step_load_bytes: int = 256 * 1024 * 1024
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
        if min(counts) < 1 or self.max_skips < 0:
            raise ValueError("every bound of the engine must be at least 1, and max_skips at least 0")
        if self.max_step_tokens < self.max_running:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running ({self.max_running}): "
                "every running sequence decodes one token a step"
            )
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark ({self.watermark}) must be in [0, 1)")
