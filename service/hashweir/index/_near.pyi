"""A scan for one code, in C. Releases the GIL."""

from typing_extensions import Buffer

def near(fronts: Buffer, codes: Buffer, query: Buffer, radius: int, level: int, /) -> bytes:
    """Rows of `codes` (n x 32 bytes) within the radius of `query` (32 bytes), ascending: int64 in the machine's order.

    `fronts` are the first 16 bytes of each code. `level` bounds the instructions, as in `_native`.
    Raises ValueError for other lengths and for buffers that are not aligned to 8 bytes.
    """
