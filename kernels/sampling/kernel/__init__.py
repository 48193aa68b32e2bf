"""Sampling in Triton: the vocabulary is cut in splits, so that a few rows fill the GPU as many do.

Every row's largest score is found first, which is all that a row without a temperature needs. Rows that are drawn are
weighed, split by split, and one program a row then finds the split, and in it the token, at which the sum of weights
exceeds its share. Of rows with top-k or top-p the likeliest tokens, up to `_CANDIDATES`, are counted and gathered on
the way, and the program finds the end of what is kept among these; a row that keeps more is read again by it. Nothing
is sorted, nothing is read by the host, and the rows' parameters may change under a CUDA graph as long as `Choices` has
the same flags.
"""

import torch
import triton
from torch import Tensor

from kernels.launch import launch
from kernels.sampling.batch import Choices, Penalties
from kernels.sampling.checks import check
from kernels.sampling.kernel.order import PLACES
from kernels.sampling.kernel.penalties import penalised_scores
from kernels.sampling.kernel.rows import choose
from kernels.sampling.kernel.splits import count_places, find_peaks, weigh

_SPLIT = 4096  # tokens of a program
_WARPS = 8
_CANDIDATES = 4096  # of a row


def sample(logits: Tensor, choices: Choices, uniforms: Tensor | None, penalties: Penalties | None = None) -> Tensor:
    """As `kernels.sampling.sample`."""
    check(logits, choices, uniforms, penalties)
    num_rows, vocab = logits.shape
    chosen = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if not num_rows:
        return chosen
    split = min(_SPLIT, triton.next_power_of_2(vocab))
    num_splits = triton.cdiv(vocab, split)
    grid, size = (num_rows * num_splits,), (logits.stride(0), vocab, num_splits)
    scores = (logits, chosen, chosen) if penalties is None else (logits, *penalised_scores(logits, penalties))
    sizes = {"HAS_PENALTIES": penalties is not None, "SPLIT": split}
    options = {"num_warps": _WARPS, "enable_fp_fusion": False}

    def table(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty((num_rows, *shape), dtype=dtype, device=logits.device)

    peaks, tops = table(num_splits, dtype=torch.float32), table(num_splits, dtype=torch.int32)
    launch(
        find_peaks,
        grid,
        peaks,
        tops,
        *scores,
        *size,
        **sizes,
        num_warps=4,
    )
    sizes["SPLITS"] = triton.next_power_of_2(num_splits)
    candidates = min(_CANDIDATES, triton.next_power_of_2(vocab))
    truncation = (choices.temperature, choices.top_k, choices.top_p)
    has_searches = uniforms is not None and (choices.has_top_k or choices.has_top_p)
    weighed = counts = keys = tokens = number = tops  # where there is no use for them
    if has_searches:
        counts = table(num_splits, PLACES.value, dtype=torch.int32)
        keys, tokens = table(candidates, dtype=torch.int32), table(candidates, dtype=torch.int32)
        number = table(dtype=torch.int32)
        launch(
            count_places,
            grid,
            counts,
            *scores,
            peaks,
            *truncation,
            *size,
            **sizes,
            **options,
        )
    if uniforms is not None:
        weighed = table(num_splits, dtype=torch.int64)
        launch(
            weigh,
            grid,
            weighed,
            number,
            keys,
            tokens,
            *scores,
            peaks,
            counts,
            *truncation,
            choices.min_p,
            *size,
            HAS_SEARCHES=has_searches,
            CANDIDATES=candidates,
            **sizes,
            **options,
        )
    launch(
        choose,
        (num_rows,),
        chosen,
        peaks,
        tops,
        *scores,
        weighed,
        number,
        keys,
        tokens,
        *truncation,
        choices.min_p,
        choices.temperature if uniforms is None else uniforms,
        *size,
        HAS_DRAWS=uniforms is not None,
        HAS_SEARCHES=has_searches,
        CANDIDATES=candidates,
        **sizes,
        **options,
    )
    return chosen
