"""Records of a fixed width in memory: appended, never changed, kept small.

What repeats is kept once. Records are kept in blocks; of a full block, each byte that is the same in all its records
(batch, high bytes of a time, set, state, the padding of an empty name) is kept once, the others as columns side by
side. So a record is read by a few copies, without unpacking its block.

One thread appends; others read meanwhile, any row below a length that they were told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4096
Octets = NDArray[np.uint8]


class _Full(NamedTuple):
    """A full block: `same` (width,) is right outside of `runs`; a run (start, end, at) says where its columns lie."""

    same: Octets
    runs: tuple[tuple[int, int, int], ...]
    varying: Octets


_Block = Octets | _Full


class Records:
    """Rows of `width` bytes, numbered from 0."""

    def __init__(self, width: int) -> None:
        """No rows."""
        self.width = width
        self._blocks: list[_Block] = []
        self._rows = 0

    def __len__(self) -> int:
        """Rows ever appended."""
        return self._rows

    def append(self, records: Octets) -> None:
        """Append records, (n, width)."""
        at = 0
        while at < len(records):
            within = self._rows % BLOCK_ROWS
            if within == 0:
                self._blocks.append(np.zeros((BLOCK_ROWS, self.width), np.uint8))
            block = self._blocks[-1]
            assert isinstance(block, np.ndarray)
            some = records[at : at + BLOCK_ROWS - within]
            block[within : within + len(some)] = some
            at += len(some)
            self._rows += len(some)
            if within + len(some) == BLOCK_ROWS:
                # One store: who reads meanwhile has the one or the other, with the same rows.
                self._blocks[-1] = _full(block)

    def take(self, rows: NDArray[np.int64]) -> Octets:
        """The records of rows, (n, width), in the order asked."""
        blocks = rows // BLOCK_ROWS
        if not rows.size or (blocks[0] == blocks[-1] and (blocks == blocks[0]).all()):
            return self._read(int(blocks[0]), rows % BLOCK_ROWS) if rows.size else np.zeros((0, self.width), np.uint8)
        found = np.empty((len(rows), self.width), np.uint8)
        order = np.argsort(blocks, kind="stable")
        cuts = np.nonzero(np.diff(blocks[order]))[0] + 1
        for some in np.split(order, cuts):
            found[some] = self._read(int(blocks[some[0]]), rows[some] % BLOCK_ROWS)
        return found

    def columns(self, start: int, end: int, rows: int) -> Iterator[tuple[int, Octets]]:
        """Bytes `start` to `end` of the first `rows` rows: for each block its first row and (n, end - start)."""
        for number in range(-(-rows // BLOCK_ROWS)):
            first = number * BLOCK_ROWS
            block, used = self._blocks[number], min(BLOCK_ROWS, rows - first)
            yield first, _part(block, slice(0, used), start, end)

    def bytes_held(self) -> int:
        """Bytes of all blocks."""
        return sum(b.nbytes if isinstance(b, np.ndarray) else b.same.nbytes + b.varying.nbytes for b in self._blocks)

    def _read(self, number: int, within: NDArray[np.int64]) -> Octets:
        return _part(self._blocks[number], within, 0, self.width)


def _part(block: _Block, within: NDArray[np.int64] | slice, start: int, end: int) -> Octets:
    """Bytes `start` to `end` of some rows of a block."""
    if isinstance(block, np.ndarray):
        return np.ascontiguousarray(block[within, start:end])
    varying = block.varying[within]
    found: Octets = np.empty((len(varying), end - start), np.uint8)
    found[:] = block.same[start:end]
    for low, high, at in block.runs:
        first, last = max(low, start), min(high, end)
        if first < last:
            found[:, first - start : last - start] = varying[:, at + first - low : at + last - low]
    return found


def _full(block: Octets) -> _Full:
    """A block without what repeats in it."""
    differs = (block != block[0]).any(axis=0)
    edges = np.nonzero(np.diff(np.concatenate([[False], differs, [False]])))[0].reshape(-1, 2)
    runs, at = list[tuple[int, int, int]](), 0
    for low, high in edges.tolist():
        runs.append((low, high, at))
        at += high - low
    return _Full(block[0].copy(), tuple(runs), np.ascontiguousarray(block[:, differs]))
