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

def search(
    codes: Sequence[Buffer],
    heads: Sequence[Buffer],
    dead: Sequence[Buffer],
    shift: int,
    rows: int,
    slices: Sequence[Slice],
    covered: int,
    limit: int,
    queries: Buffer,
    radius: int,
    measure: int,
    level: int,
    /,
) -> bytearray:
    """Rows within the radius of each query, as int64: all queries, then all rows, then all distances.

    HAMMING is over codes of 32 bytes, without heads. DIFFXLEN and DIFF are TLSH's over bit planes of 32 bytes and heads
    of 3 (checksum, quartile ratios, length); a query is planes and head.
    Rows below `covered` are looked up in the slices, which must all hold them, with radii r such that the sum of
    r + 1 is above the radius; a query with more than `limit` candidates is scanned. All other rows are scanned.
    """

def build(
    codes: Sequence[Buffer], shift: int, count: int, first: int, width: int, starts: Buffer, rows: Buffer, /
) -> None:
    """Fill the runs of a slice from the first `count` rows. Needs no more memory than these two."""
