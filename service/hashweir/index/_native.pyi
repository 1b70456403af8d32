"""The inner loops of the indexes, in C. All of them release the GIL.

Rows lie in segments of 2**shift rows; all but the last must be whole. Integers in buffers are in the machine's order.
`level` picks the instructions: 0 portable, 1 POPCNT, 2 AVX-512 VPOPCNTDQ; what the processor lacks is never used.
All raise ValueError for buffers that are too short for what is asked, or not aligned, and for numbers out of range.
"""

from collections.abc import Sequence
from typing import Final

from typing_extensions import Buffer

LEVEL: Final[int]
"""The highest level that this processor has."""

HAMMING: Final[int]
DIFFXLEN: Final[int]
DIFF: Final[int]

Slice = tuple[int, int, int, Buffer, Buffer, Buffer]
"""First bit and width of a slice, its radius, and three runs of uint32: masks to put on a query's bits, which are all
of up to `radius` bits; where each bucket starts, 2**width + 1 of them; rows in the order of buckets."""

Layer = tuple[int, int, int, tuple[Slice, ...]]
"""Rows from the first number up to the second, and the slices that all of them are in, with radii r such that the sum
of r + 1 is above the radius. A query with more candidates there than the third number is scanned from the first row
on."""

def search(
    codes: Sequence[Buffer],
    heads: Sequence[Buffer],
    dead: Sequence[Buffer],
    shift: int,
    rows: int,
    layers: tuple[Layer, ...],
    queries: Buffer,
    radius: int,
    measure: int,
    level: int,
    /,
) -> bytearray:
    """Rows within the radius of each query, as int64: all queries, then all rows, then all distances.

    HAMMING is over codes of 32 bytes, without heads. DIFFXLEN and DIFF are TLSH's over bit planes of 32 bytes and heads
    of 3 (checksum, quartile ratios, length); a query is planes and head.
    The first layer begins with row 0, each other one where the one before ends. Rows after the last are scanned.
    """

def build(
    codes: Sequence[Buffer],
    shift: int,
    from_row: int,
    end: int,
    first: int,
    width: int,
    starts: Buffer,
    rows: Buffer,
    /,
) -> None:
    """Fill the runs of a slice from the rows `from_row` up to `end`. Needs no more memory than these two."""
