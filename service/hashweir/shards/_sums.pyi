"""Sums of chunks, computed without the interpreter lock."""

def chunk_sum(first: int, slots: bytes, sides: bytes) -> int:
    """Sum of `layout.slot_sum` over a chunk whose first slot has the number `first`: 0 to 2^52-1.

    `slots` are 64 bytes and `sides` 40 bytes each, as many of the one as of the other, or ValueError is raised.
    """

def chunk_sum_portable(first: int, slots: bytes, sides: bytes) -> int:
    """The same without the processor's own instructions for SHA-1."""

def slot_sums(numbers: bytes, slots: bytes, sides: bytes) -> bytes:
    """Of each slot its share of a sum (`layout.slot_sum`), as uint64. `numbers` are uint32, in the machine's order.

    Raises ValueError where there are not as many numbers, slots of 64 and side records of 40 bytes.
    """

def accelerated() -> bool:
    """Whether `chunk_sum` uses the processor's own instructions for SHA-1."""
