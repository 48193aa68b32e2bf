"""When the kernel is faster than the vendor's library, and with which tiles.

Microseconds on an H200 of the kernel, chained, and of `torch.mm` after the slash; bf16, CUDA graphs over weights of
more than twice the L2. Floors are the bytes at 4.3 TB/s.

| out x in | floor, 1 row | 1 row | 16 rows | 32 rows | 64 rows |
|---|---|---|---|---|---|
| 12,288 x 4,096 | 23.4 | 23.7 / 27.7 | 24.3 / 28.0 | 25.3 / 28.5 | 28.0 / 28.9 |
| 4,096 x 4,096 | 7.8 | 8.7 / 12.4 | 9.1 / 12.9 | 9.8 / 13.2 | 11.3 / 11.9 |
| 22,016 x 4,096 | 42.0 | 42.4 / 45.8 | 44.5 / 46.2 | 46.6 / 46.1 | 48.2 / 47.9 |
| 4,096 x 11,008 | 21.0 | 21.1 / 27.1 | 21.7 / 27.6 | 22.5 / 26.3 | 25.7 / 28.8 |
| 32,000 x 4,096 | 61.0 | 60.8 / 66.4 | 61.4 / 66.9 | 64.1 / 66.9 | 65.6 / 68.9 |
| 6,144 x 4,096 | 11.7 | 12.6 / 16.0 | 13.2 / 15.8 | 14.7 / 16.1 | 15.3 / 16.4 |
| 28,672 x 4,096 | 54.6 | 53.3 / 56.7 | 54.8 / 57.6 | 56.9 / 62.5 | 61.2 / 62.7 |
| 4,096 x 14,336 | 27.3 | 27.1 / 30.9 | 27.8 / 31.9 | 28.7 / 32.7 | 32.6 / 35.6 |
| 128,256 x 4,096 | 244 | 236 / 247 | 242 / 253 | 256 / 267 | 263 / 283 |
| 1,280 x 8,192 | 4.9 | 7.3 / 9.8 | 7.7 / 10.1 | 9.2 / 10.4 | |
| 8,192 x 1,024 | 3.9 | 5.5 / 6.8 | 5.5 / 7.0 | 5.7 / 7.1 | 6.4 / 7.8 |
| 7,168 x 8,192 | 27.3 | 29.4 / 32.7 | 30.0 / 33.4 | 31.0 / 31.3 | 32.3 / 31.2 |
| 8,192 x 3,584 | 13.7 | 14.1 / 16.6 | 14.6 / 16.7 | 15.7 / 17.1 | 15.9 / 18.0 |
| 16,032 x 8,192 | 61.1 | 61.1 / 63.9 | 61.8 / 63.0 | 64.0 / 65.2 | 66.4 / 73.5 |

With 128 rows the library was as fast or faster (28.1 and 50.1 for the first and third against 30.7 and 50.2). Products
of more rows are in whole tiles where adapters' shrinks run beside them, their shares are added, or SwiGLU's product
follows.
"""

from dataclasses import dataclass

HEIGHT = 64  # rows of the left operand of a tile: what a warpgroup multiplies at once
WIDTH = 64  # elements of a slab's rows: 128 bytes, as TMA swizzles them
SLABS = 2  # of a stage
STAGES_BYTES = 200 << 10  # of shared memory for stages; a program has a processor alone
FEW_ROWS = 32  # with no more, rows of a matrix are cut in parts, which reads `x` as often as there are parts
MAX_ROWS = 64  # the library is as fast with more
WHOLE_TILE = 128  # rows of a whole tile, and columns


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

    def count(self, out_features: int) -> int:
        """Tiles of a matrix."""
        return -(-out_features * self.parts // HEIGHT)
