"""What one forward pass takes."""

from dataclasses import dataclass

from torch import Tensor

from kernels.attention import AttentionBatch
from kernels.lora import LoraBatch
from worker.types import BatchSize


@dataclass(frozen=True, eq=False)
class ForwardBatch:
    """The rows of one step, on the model's device. Rows of the base model come first, then each adapter's together.

    Attributes:
        token_ids: `[num_rows]` int64.
        positions: `[num_rows]` int64, from 0 in each sequence.
        attention: The sequences.
        lora: The live adapters; None if all rows use the base model alone.
        logit_rows: `[num_logit_rows]` int64; the rows whose next token is wanted.
        is_narrow: Whether only these rows are computed past the last layer's attention. They then ascend, but for some
            behind all that `logit_lora` names, whose logits nobody wants.
        logit_lora: As `lora`, of the logit rows in their order; None if the batch is not narrow.
        size: If set, the batch was filled up to it, and its tensors lie where those of every batch of this size lie.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    lora: LoraBatch | None
    logit_rows: Tensor
    is_narrow: bool = False
    logit_lora: LoraBatch | None = None
    size: BatchSize | None = None

    def __post_init__(self) -> None:
        assert not self.is_narrow or (self.lora is None) == (self.logit_lora is None), "whose the logit rows are"
