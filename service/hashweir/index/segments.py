"""Memory of indexes: mapped pages, which go back to the system when the last reader is gone.

An allocator would keep freed runs of some 100 MB for later or cut them up; a process that merges all day would grow.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_HUGE = 2 << 20
"""Bytes of a huge page on x86-64 and most ARM systems. A smaller one elsewhere only means a later start."""


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


class Segments:
    """Rows of `width` bytes that only grow, in segments of 2**shift rows: growth copies nothing."""

    def __init__(self, width: int, shift: int) -> None:
        """No rows."""
        self.width = width
        self.shift = shift
        self.all: tuple[mmap.mmap, ...] = ()
        """Replaced where a segment is added: a reader keeps what it began with."""

    def write(self, first: int, values: bytes | memoryview) -> None:
        """Put rows at `first`, which is the number of rows so far."""
        rows = len(values) // self.width
        while len(self.all) << self.shift < first + rows:
            self.all = (*self.all, pages(self.width << self.shift, 0 if self.all else _HUGE))
        view = memoryview(values)
        for segment, low, high, done in self._parts(first, rows):
            segment[low * self.width : high * self.width] = view[
                done * self.width : (done + high - low) * self.width
            ]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Rows by number: (n, width)."""
        found = np.empty((rows.size, self.width), np.uint8)
        number = rows >> self.shift
        for one in np.unique(number).tolist():
            here = number == one
            segment = np.frombuffer(self.all[one], np.uint8).reshape(-1, self.width)
            found[here] = segment[rows[here] & ((1 << self.shift) - 1)]
        return found

    def _parts(self, first: int, rows: int) -> Iterator[tuple[mmap.mmap, int, int, int]]:
        """Segments that these rows lie in, with first and last place in each, and how many rows came before."""
        done, size = 0, 1 << self.shift
        while done < rows:
            number, low = divmod(first + done, size)
            high = min(low + rows - done, size)
            yield self.all[number], low, high, done
            done += high - low
