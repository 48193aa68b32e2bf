"""How work is shared among programs."""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lora.kernel.tiling import apart_share_of
from tests.kernels.buffers import DEVICE


@triton.jit
def _write_shares(shares, num_programs, num_multiplying, rounds_meanwhile, num_tiles, rounds: tl.constexpr):
    program, part = tl.program_id(0), tl.program_id(1)
    first, end = apart_share_of(program, part, num_programs, num_multiplying, rounds_meanwhile, num_tiles, rounds)
    tl.store(shares + (program * 2 + part) * 2, first)
    tl.store(shares + (program * 2 + part) * 2 + 1, end)


@pytest.mark.parametrize("rounds", [1, 2, 7])
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12).flatmap(lambda programs: st.tuples(st.just(programs), st.integers(1, programs))),
    st.integers(0, 60),
    st.one_of(st.integers(0, 40), st.integers(0, 3000)),
)
def test_shares_beside_a_product_are_all_tiles_and_end_together(
    rounds: int, programs: tuple[int, int], meanwhile: int, num_tiles: int
) -> None:
    num_programs, num_multiplying = programs
    shares = torch.full((2 * num_programs, 2), -1, dtype=torch.int32, device=DEVICE)
    _write_shares[(num_programs, 2)](shares, num_programs, num_multiplying, meanwhile, num_tiles, rounds)
    found = shares.tolist()
    order = found[2 * num_multiplying :] + found[: 2 * num_multiplying]  # those that only shrink have the first tiles
    assert [first for first, _ in order] == [0, *(end for _, end in order[:-1])]
    assert order[-1][1] == num_tiles
    counts = [end - first for first, end in found]
    multiplying, free = counts[: 2 * num_multiplying], counts[2 * num_multiplying :]
    for part in (multiplying, free):
        assert not part or max(part) - min(part) <= 1
    if free and max(multiplying) > 1:  # nobody has much more to do than the others
        assert abs((max(multiplying) - max(free)) * rounds + meanwhile) <= 3 * rounds
    if free and sum(free) * rounds < len(free) * (meanwhile - rounds):
        assert sum(multiplying) == 0, "the others do it all meanwhile"
