"""How the rows of a batch want their tokens chosen."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Choices:
    """The rows' parameters, the same for as long as the same sequences make up the batch.

    Attributes:
        temperature: `[num_rows]` float32; 0 takes the likeliest token.
        top_k: `[num_rows]` int64; 0 keeps all tokens.
        top_p: `[num_rows]` float64, in (0, 1].
        min_p: `[num_rows]` float64, in [0, 1].
        whole_rows: `[any]` int64; rows with a temperature that keep all tokens.
        truncated_rows: `[any]` int64; the other rows with a temperature.
        has_top_k: Whether `top_k` is above 0 in any row.
        has_top_p: Whether `top_p` is below 1 in any row.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    whole_rows: Tensor
    truncated_rows: Tensor
    has_top_k: bool
    has_top_p: bool

    @property
    def has_draws(self) -> bool:
        """Whether any row has a temperature."""
        return self.whole_rows.shape[0] + self.truncated_rows.shape[0] > 0


@dataclass(frozen=True, eq=False)
class Penalties:
    """The rows with penalties, and the tokens that these fall on.

    Attributes:
        rows: `[num_penalised]` int64, distinct.
        repetition: `[num_penalised]` float32, above 0.
        presence: `[num_penalised]` float32.
        frequency: `[num_penalised]` float32.
        seen: `[any]` int64; `i * vocab + token` of every token in prompt or output of `rows[i]`; repeats do not matter.
        output: `[any]` int64; `i * vocab + token` of every token in the output of `rows[i]`; repeats count.
    """

    rows: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    seen: Tensor
    output: Tensor
