"""The op that the sampler calls: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.device import kernel_of
from kernels.sampling import reference
from kernels.sampling.batch import Choices, Penalties


def sample(logits: Tensor, choices: Choices, uniforms: Tensor | None, penalties: Penalties | None = None) -> Tensor:
    """The next token of each row.

    For each row, with `u` its uniform:

    1. Penalties: `l' = (l / r if l > 0 else l * r)` where seen, then `l' - f * count - p * (count > 0)`, kept finite;
       `count` is how often a token stands in the output. The repetition penalty is CTRL's, arXiv 1909.05858.
    2. Without a temperature: the largest, the lowest id of equal ones.
    3. `x = (l' - max l') / temperature`. Tokens are ordered by falling x, ties by id; P are their probabilities.
    4. top-k keeps the first k; top-p the tokens before which the sum of P, renormalised over what top-k kept, is still
       below p (arXiv 1904.09751); min-p those with P at least `min_p` times the first one's (arXiv 2407.01082).
    5. The first token, in the order of ids, at which the sum of P over what is kept exceeds `u` times their total.

    A row in which some l' is NaN or the largest infinite has no distribution: its token is -1.

    A row's token depends on its own logits, parameters and uniform alone. Implementations differ where a sum of
    probabilities lies within rounding of what it is compared with.

    Args:
        logits: `[num_rows, vocab]` of a floating type, taken as float32, with unit stride in its last dimension; not
            changed.
        choices: The rows' parameters.
        uniforms: `[num_rows]` float64, in [0, 1); None if no row has a temperature.
        penalties: The rows with penalties, if any.

    Returns:
        `[num_rows]` int64.
    """
    if logits.is_cuda:
        tokens: Tensor = kernel_of("sampling").sample(logits, choices, uniforms, penalties)
        return tokens
    return reference.sample(logits, choices, uniforms, penalties)
