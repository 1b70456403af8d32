"""Rows in memory that only grow, for the C loops: in segments, so that growth copies nothing, with tombstones.

Memory is mapped pages, which go back to the system when the last reader is gone. An allocator would keep or cut up
freed runs of some 100 MB; a process that merges all day would grow.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SHIFT: Final = 20
"""Segments have 2**20 rows: 32 MiB of codes, and ten segments at ten million, which a search holds on to one by one."""
_HUGE: Final = 2 << 20
"""Bytes of a huge page on x86-64 and most ARM systems. Where it is another size, the advice only begins elsewhere."""


def pages(size: int, ordinary: int = _HUGE) -> mmap.mmap:
    """Zeroed memory of this many bytes. Nothing is resident before it is written.

    Above the first `ordinary` bytes huge pages are asked for: random reads of a gigabyte miss the TLB otherwise.
    """
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size > ordinary and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE, ordinary, size - ordinary)
        except OSError:  # a kernel without them
            return memory
    return memory


class Snapshot(NamedTuple):
    """What a search sees: segments of every column and of the tombstones, and how many rows are complete."""

    columns: tuple[tuple[mmap.mmap, ...], ...]
    dead: tuple[mmap.mmap, ...]
    rows: int


class Rows:
    """Columns of fixed widths over the same rows. One thread appends and withdraws; any number read `now`.

    Below the number of rows in a snapshot nothing changes but tombstones, which go from 0 to 1.
    """

    def __init__(self, *widths: int, shift: int = SHIFT) -> None:
        """No rows; a column of each width in bytes; segments of 2**shift rows."""
        self.shift = shift
        self.now = Snapshot(((),) * len(widths), (), 0)
        self._widths = widths
        self._withdrawn = 0

    def append(self, *values: bytes) -> int:
        """Append rows, given as one run of bytes per column; the first new row. Raises ValueError above 2**32 rows."""
        columns, dead, first = self.now
        rows = first + len(values[0]) // self._widths[0]
        if rows >= 1 << 32:
            raise ValueError("an index has less than 2**32 rows")
        if rows > len(dead) << self.shift:
            missing = range(len(dead), -(-rows >> self.shift))
            dead += tuple(pages(1 << self.shift) for _ in missing)
            columns = tuple(
                column + tuple(pages(width << self.shift, 0 if number else _HUGE) for number in missing)
                for column, width in zip(columns, self._widths, strict=True)
            )
        for column, width, some in zip(columns, self._widths, values, strict=True):
            source = memoryview(some)
            for number, low, high, done in self._parts(first, rows):
                column[number][low * width : high * width] = source[done * width : (done + high - low) * width]
        # Only this makes the new rows visible, and by then they are complete.
        self.now = Snapshot(columns, dead, rows)
        return first

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever; twice is allowed. Raises IndexError for one that was never appended."""
        _, dead, count = self.now
        gone = np.unique(rows)
        if gone.size and not 0 <= gone[0] <= gone[-1] < count:
            raise IndexError(f"rows 0 to {count - 1}")
        for number in np.unique(gone >> self.shift).tolist():
            segment = np.frombuffer(dead[number], np.uint8)
            places = gone[gone >> self.shift == number] & ((1 << self.shift) - 1)
            self._withdrawn += int(np.count_nonzero(segment[places] == 0))
            segment[places] = 1

    def read(self, column: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Rows of a column by number, (n, width). Raises IndexError for one that was never appended."""
        segments, count = self.now.columns[column], self.now.rows
        if rows.size and not 0 <= rows.min() <= rows.max() < count:
            raise IndexError(f"rows 0 to {count - 1}")
        found = np.empty((rows.size, self._widths[column]), np.uint8)
        if rows.size and rows[-1] - rows[0] == rows.size - 1 and (rows[1:] > rows[:-1]).all():
            # A run, as most chunks are.
            for one, low, high, done in self._parts(int(rows[0]), int(rows[-1]) + 1):
                segment = np.frombuffer(segments[one], np.uint8).reshape(-1, self._widths[column])
                found[done : done + high - low] = segment[low:high]
            return found
        number = rows >> self.shift
        for one in np.unique(number).tolist():
            here = number == one
            segment = np.frombuffer(segments[one], np.uint8).reshape(-1, self._widths[column])
            found[here] = segment[rows[here] & ((1 << self.shift) - 1)]
        return found

    def column(self, number: int, rows: int) -> Iterator[memoryview]:
        """The first `rows` rows of a column, segment by segment."""
        width = self._widths[number]
        for segment, low, high, _ in self._parts(0, rows):
            yield memoryview(self.now.columns[number][segment])[low * width : high * width]

    def __len__(self) -> int:
        """Rows that were not withdrawn."""
        return self.now.rows - self._withdrawn

    def _parts(self, first: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Segments of these rows: number, first and last place, and how many of the rows came before."""
        row = first
        while row < end:
            number, low = divmod(row, 1 << self.shift)
            high = min(low + end - row, 1 << self.shift)
            yield number, low, high, row - first
            row += high - low


def whole(values: bytes, width: int) -> bytes:
    """The same values. Raises ValueError for a length that is no multiple of the width."""
    if len(values) % width:
        raise ValueError(f"values are {width} bytes each, got {len(values)} bytes")
    return values
