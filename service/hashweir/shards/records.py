"""Records of a fixed width in memory: appended, never changed, kept small.

What repeats is kept once. Records are kept in blocks; of a full block, each byte that is the same in all its records
(batch, high bytes of a time, set, state, the padding of an empty name) is kept once, the others as columns side by
side. So a record is read by a few copies, without unpacking its block.

One thread appends; others read meanwhile, any row below a length that they were told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4096
Octets = NDArray[np.uint8]


class Full(NamedTuple):
    """A full block: `same` (width,) is right outside of `runs`; a run (start, end, at) says where its columns lie."""

    same: Octets
    runs: tuple[tuple[int, int, int], ...]
    varying: Octets


_Block = Octets | Full


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
        found = np.empty((len(rows), self.width), np.uint8)
        if not rows.size:
            return found
        first, at = int(rows[0]), 0
        if int(rows[-1]) - first == len(rows) - 1 and (rows[1:] > rows[:-1]).all():
            # A run, as most chunks are: slices are several times faster than row numbers.
            while at < len(rows):
                number, within = divmod(first + at, BLOCK_ROWS)
                size = min(BLOCK_ROWS - within, len(rows) - at)
                _copy(self._blocks[number], slice(within, within + size), 0, found[at : at + size])
                at += size
            return found
        blocks = rows // BLOCK_ROWS
        if (blocks == blocks[0]).all():
            _copy(self._blocks[int(blocks[0])], rows % BLOCK_ROWS, 0, found)
            return found
        order = np.argsort(blocks, kind="stable")
        for some in np.split(order, np.nonzero(np.diff(blocks[order]))[0] + 1):
            block = self._blocks[int(blocks[some[0]])]
            part = np.empty((len(some), self.width), np.uint8)
            _copy(block, rows[some] % BLOCK_ROWS, 0, part)
            found[some] = part
        return found

    def columns(self, start: int, end: int, rows: int) -> Iterator[tuple[int, Octets]]:
        """Bytes `start` to `end` of the first `rows` rows: for each block its first row and (n, end - start)."""
        for number in range(-(-rows // BLOCK_ROWS)):
            first = number * BLOCK_ROWS
            block, used = self._blocks[number], min(BLOCK_ROWS, rows - first)
            column = np.empty((used, end - start), np.uint8)
            _copy(block, slice(0, used), start, column)
            yield first, column

    def checksum(self, first: int, count: int) -> int:
        """CRC-32 of `count` rows from `first` on as they are kept. The same rows kept otherwise have another one."""
        found = 0
        while count > 0:
            number, within = divmod(first, BLOCK_ROWS)
            block, size = self._blocks[number], min(BLOCK_ROWS - within, count)
            if isinstance(block, Full):
                found = crc32(repr(block.runs).encode(), crc32(block.same.data, found))
                block = block.varying
            found = crc32(block[within : within + size].data, found)
            first, count = first + size, count - size
        return found

    def blocks(self) -> list[Octets | Full]:
        """As `restored` takes them. The last one may have room, in which rows may come."""
        return list(self._blocks)

    @classmethod
    def restored(cls, width: int, blocks: Sequence[Octets | Full], rows: int) -> Records:
        """Rows from blocks. Raises ValueError where these are not as many, or not of this width."""
        found = cls(width)
        for number, block in enumerate(blocks):
            if isinstance(block, np.ndarray):
                used = rows - number * BLOCK_ROWS
                if number != len(blocks) - 1 or block.shape != (used, width):
                    raise ValueError("a block of records is not whole")
                found.append(block)
                continue
            ends = all(0 <= low < high <= width and at >= 0 for low, high, at in block.runs)
            columns = max((at + high - low for low, high, at in block.runs), default=0)
            if not ends or block.same.shape != (width,) or block.varying.shape != (BLOCK_ROWS, columns):
                raise ValueError("a block of records does not fit")
            found._blocks.append(block)
            found._rows += BLOCK_ROWS
        if len(found) != rows:
            raise ValueError(f"{len(found)} records of {rows}")
        return found


def _copy(block: _Block, within: NDArray[np.int64] | slice, start: int, to: Octets) -> None:
    """Copy the bytes from `start` on of some rows of a block: as many as `to`, (n, bytes), is wide."""
    end = start + to.shape[1]
    if isinstance(block, np.ndarray):
        to[:] = block[within, start:end]
        return
    to[:] = block.same[start:end]
    varying = block.varying[within]
    for low, high, at in block.runs:
        first, last = max(low, start), min(high, end)
        if first < last:
            to[:, first - start : last - start] = varying[:, at + first - low : at + last - low]


def _full(block: Octets) -> Full:
    """A block without what repeats in it."""
    differs = (block != block[0]).any(axis=0)
    edges = np.nonzero(np.diff(np.concatenate([[False], differs, [False]])))[0].reshape(-1, 2)
    runs, at = list[tuple[int, int, int]](), 0
    for low, high in edges.tolist():
        runs.append((low, high, at))
        at += high - low
    return Full(block[0].copy(), tuple(runs), np.ascontiguousarray(block[:, differs]))
