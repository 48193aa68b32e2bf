"""When the kernel is faster than the vendor's library, and with which tiles.

Microseconds on an H200 of the kernel, chained, and of `torch.mm` after the slash; bf16, CUDA graphs over weights of
more than twice the L2. Floors are the bytes at 4.3 TB/s.

| out x in | floor | 1 row | 32 rows | 64 rows |
|---|---|---|---|---|
| 12,288 x 4,096 | 23.4 | 23.8 / 28.0 | 25.2 / 28.6 | 28.0 / 28.6 |
| 4,096 x 4,096 | 7.8 | 8.7 / 12.6 | 9.4 / 12.9 | 10.9 / 11.9 |
| 22,016 x 4,096 | 42.0 | 41.8 / 45.5 | 46.2 / 46.4 | 47.5 / 48.3 |
| 4,096 x 11,008 | 21.0 | 20.9 / 26.7 | 22.2 / 25.9 | 25.5 / 28.6 |
| 32,000 x 4,096 | 61.0 | 59.8 / 64.8 | 63.7 / 67.2 | |
| 6,144 x 4,096 | 11.7 | 12.5 / 16.3 | 14.3 / 16.3 | |
| 28,672 x 4,096 | 54.6 | 53.2 / 56.8 | 56.6 / 58.8 | 61.0 / 63.0 |
| 1,280 x 8,192 | 4.9 | 7.4 / 9.8 | 9.0 / 10.1 | |
| 7,168 x 8,192 | 27.3 | 29.2 / 32.7 | 31.3 / 31.1 | 32.5 / 30.8 |
| 8,192 x 3,584 | 13.7 | 14.2 / 16.6 | 15.6 / 17.1 | 16.0 / 18.2 |

With 128 rows the library was as fast or faster (28.1 and 50.1 for the first and third against 30.7 and 50.2).
"""

from dataclasses import dataclass

HEIGHT = 64  # rows of the left operand of a tile: what a warpgroup multiplies at once
WIDTH = 64  # elements of a slab's rows: 128 bytes, as TMA swizzles them
SLABS = 2  # of a stage
STAGES_BYTES = 200 << 10  # of shared memory for stages; a program has a processor alone
FEW_ROWS = 32  # with no more, rows of a matrix are cut in parts, which reads `x` as often as there are parts
MAX_ROWS = 64  # the library is as fast with more


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut.

    Attributes:
        rows: Of `x`, padded.
        parts: Of a row of the matrix, each a row of a tile's left operand.
        stages: Of shared memory.
    """

    rows: int
    parts: int
    stages: int

    @classmethod
    def of(cls, num_rows: int, out_features: int) -> "Tiles | None":
        """The tiles for a product; None where the library is to take it.

        Parts follow from the matrix and from which side of `FEW_ROWS` the rows are, so that a row has the same bits
        whatever their number there.
        """
        if num_rows > MAX_ROWS:
            return None
        if num_rows > FEW_ROWS:
            parts, least = 1, 4096
        else:
            parts, least = (2, 1024) if out_features > 2048 else (4, 1024)
        if out_features < least:
            return None
        rows = max(8, 1 << (num_rows - 1).bit_length())
        return cls(rows, parts, STAGES_BYTES // (2 * SLABS * WIDTH * (HEIGHT + rows * parts)))
