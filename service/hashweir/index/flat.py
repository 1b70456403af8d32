"""Flat scans with numpy: exact by construction, and the oracle of every faster index.

Rows are columns here: word `i` of all values lies in one run of memory, which numpy walks about five times faster
than it would sum over rows of four words.

One thread adds and withdraws; any number of threads search meanwhile. A search reads one immutable tuple (columns,
tombstones, rows) at its start. Below that number of rows the columns never change again, and a tombstone only goes
0 to 1, so a search that overlaps a withdrawal may give the row or not, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.ports import Hits

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]
Distances = NDArray[np.uint16]

PDQ_BYTES = 32
TLSH_BYTES = 35
_FIRST_ROWS = 1024
_CELLS = 1 << 16
"""Distances computed at once: its temporaries (8 bytes a cell) stay inside a core's cache, whatever is asked."""


class _Snapshot(NamedTuple):
    """What a search sees: `words` is (columns, room) uint64, `extra` (columns, room) uint8, `dead` (room,) uint8."""

    words: Words
    extra: Octets
    dead: Octets
    rows: int


class _Flat(ABC):
    """What both kinds share: growth, tombstones, and cutting a search into blocks."""

    width: int
    """Bytes of a value."""

    def __init__(self, words: int, extra: int) -> None:
        """An empty index with so many 8-byte and so many 1-byte columns."""
        self._now = _Snapshot(
            np.zeros((words, _FIRST_ROWS), np.uint64),
            np.zeros((extra, _FIRST_ROWS), np.uint8),
            np.zeros(_FIRST_ROWS, np.uint8),
            0,
        )
        self._withdrawn = 0

    @abstractmethod
    def _columns(self, values: Octets) -> tuple[Words, Octets]:
        """Values, (n, width) uint8, as columns: (words, n) uint64 and (extra, n) uint8."""

    @abstractmethod
    def _distances(self, words: Words, extra: Octets, asked: Words, asked_extra: Octets) -> Distances:
        """Distances, (queries, rows), of columns of rows to columns of queries."""

    @abstractmethod
    def _values(self, words: Words, extra: Octets) -> Octets:
        """The way back: values, (n, width) uint8, of columns."""

    def _split(self, values: bytes) -> tuple[Words, Octets]:
        if len(values) % self.width:
            raise ValueError(f"values are {self.width} bytes each, got {len(values)} bytes")
        return self._columns(np.frombuffer(values, np.uint8).reshape(-1, self.width))

    def add(self, values: bytes) -> int:
        """Append concatenated values of `width` bytes; the first new row. Raises ValueError for another length."""
        words, extra = self._split(values)
        now = self._now
        first, rows = now.rows, now.rows + words.shape[1]
        if rows > now.dead.size:
            now = _grown(now, max(rows, 2 * now.dead.size))
        now.words[:, first:rows] = words
        now.extra[:, first:rows] = extra
        # Only this store makes the new rows visible, and by then they are complete.
        self._now = now._replace(rows=rows)
        return first

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever; twice is allowed. Raises IndexError for one that was never added."""
        for row in np.atleast_1d(rows).tolist():
            if not 0 <= row < self._now.rows:
                raise IndexError(row)
            self._withdrawn += not self._now.dead[row]
            self._now.dead[row] = 1

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows within radius of each query, withdrawn ones excepted.

        `queries` are concatenated values. Memory is bounded whatever their number. Raises ValueError for a length
        that is no multiple of `width`.
        """
        asked, asked_extra = self._split(queries)
        now = self._now
        step = min(max(now.rows, 1), _CELLS)
        together = max(1, _CELLS // step)
        found: list[NDArray[np.int64]] = [np.zeros((3, 0), np.int64)]
        for first in range(0, asked.shape[1], together):
            some = slice(first, first + together)
            for low in range(0, now.rows, step):
                block = slice(low, min(low + step, now.rows))
                far = self._distances(now.words[:, block], now.extra[:, block], asked[:, some], asked_extra[:, some])
                query, row = np.nonzero(far <= radius)
                if query.size:
                    alive = now.dead[row + low] == 0
                    query, row = query[alive], row[alive]
                    found.append(np.array([query + first, row + low, far[query, row]], np.int64))
        hits = np.concatenate(found, axis=1)
        return Hits(*hits[:, np.lexsort((hits[1], hits[0]))])

    def values(self, rows: NDArray[np.int64]) -> Octets:
        """The values of rows, withdrawn ones included: (n, width). Raises IndexError for a row never added."""
        now = self._now
        if rows.size and not 0 <= rows.min() <= rows.max() < now.rows:
            raise IndexError(f"rows 0 to {now.rows - 1}")
        return self._values(now.words[:, rows], now.extra[:, rows])

    def tend(self) -> bool:
        """Nothing is ever due."""
        return False

    def __len__(self) -> int:
        """Rows that a search can return."""
        return self._now.rows - self._withdrawn


def _grown(now: _Snapshot, room: int) -> _Snapshot:
    """The same rows with more room. The old arrays live on in the searches that began with them."""

    def wider(old: Words | Octets) -> NDArray[np.generic]:
        new = np.zeros((*old.shape[:-1], room), old.dtype)
        new[..., : now.rows] = old[..., : now.rows]
        return new

    return _Snapshot(wider(now.words), wider(now.extra), wider(now.dead), now.rows)  # type: ignore[arg-type]


class FlatPdq(_Flat):
    """Hamming distance over 256-bit codes (32 bytes), 0 to 256: PDQ hashing document, Facebook 2019, "Matching"."""

    width = PDQ_BYTES

    def __init__(self) -> None:
        """An empty index."""
        super().__init__(words=4, extra=0)

    def _columns(self, values: Octets) -> tuple[Words, Octets]:
        words = np.ascontiguousarray(values).view(np.uint64).reshape(-1, 4).T
        return words, np.zeros((0, words.shape[1]), np.uint8)

    def _values(self, words: Words, extra: Octets) -> Octets:
        return np.ascontiguousarray(words.T).view(np.uint8)

    def _distances(self, words: Words, extra: Octets, asked: Words, asked_extra: Octets) -> Distances:
        far = np.zeros((asked.shape[1], words.shape[1]), np.uint16)  # 256 does not fit a byte
        for column, wanted in zip(words, asked, strict=True):
            far += np.bitwise_count(column ^ wanted[:, None])
        return far


class FlatTlsh(_Flat):
    """TLSH's `diffxlen` over values of 35 bytes: checksum, length, quartile ratios, 128 buckets of 2 bits.

    Body: buckets that differ by 1, 2, 3 cost 1, 2, 6. Checksum: 1 where it differs. Each of the two quartile ratios:
    their difference d mod 16, d where at most 1, else 12 (d - 1). The length byte is left out.
    Source: Oliver, Cheng, Chen, "TLSH - A Locality Sensitive Hash", 2013, and `tlsh_util.cpp` of the reference.

    A bucket is kept in Gray code (0, 1, 2, 3 as 00, 01, 11, 10) over two bit planes, so that bits that differ count
    1 for a difference of 1 and 2 for one of 2. Only 0 against 3 counts 1 too few by far: the high bits differ while
    both low ones are 0, which adds 5.
    """

    width = TLSH_BYTES

    def __init__(self) -> None:
        """An empty index: two planes of 128 bits, checksum, ratios and length."""
        super().__init__(words=4, extra=3)

    def _columns(self, values: Octets) -> tuple[Words, Octets]:
        return planes_of(values).view(np.uint64).reshape(-1, 4).T, values[:, [0, 2, 1]].T

    def _values(self, words: Words, extra: Octets) -> Octets:
        return np.hstack([extra[[0, 2, 1]].T, body_of(np.ascontiguousarray(words.T).view(np.uint8))])

    def _distances(self, words: Words, extra: Octets, asked: Words, asked_extra: Octets) -> Distances:
        far: Distances = _RATIOS[asked_extra[1][:, None], extra[1]]
        far += asked_extra[0][:, None] != extra[0]
        for half in (0, 1):
            high = words[half] ^ asked[half][:, None]
            far += np.bitwise_count(high)
            far += np.bitwise_count(words[half + 2] ^ asked[half + 2][:, None])
            extreme = high & ~(words[half + 2] | asked[half + 2][:, None])
            far += np.bitwise_count(extreme) * np.uint16(5)  # 64 buckets times 5 do not fit a byte
        return far


def planes_of(values: Octets) -> Octets:
    """The bodies of TLSH values, (n, 35), as bit planes, (n, 32): 128 high bits, then 128 low ones in Gray code."""
    bits = np.unpackbits(np.ascontiguousarray(values[:, 3:]), axis=1).reshape(-1, 128, 2)
    high, gray_low = bits[:, :, 0], bits[:, :, 0] ^ bits[:, :, 1]
    return np.packbits(np.concatenate([high, gray_low], axis=1), axis=1)


def body_of(planes: Octets) -> Octets:
    """The way back: the last 32 bytes of values, (n, 32), of their bit planes."""
    bits = np.unpackbits(planes, axis=1).reshape(-1, 2, 128)
    high, gray_low = bits[:, 0], bits[:, 1]
    return np.packbits(np.stack([high, high ^ gray_low], axis=2).reshape(-1, 256), axis=1)


def _ratio_table() -> Distances:
    """Cost of every pair of quartile bytes, (256, 256): each nibble is one ratio."""
    nibble = np.arange(16)
    apart = (nibble[:, None] - nibble) % 16
    apart = np.minimum(apart, 16 - apart)
    cost = np.where(apart <= 1, apart, 12 * (apart - 1))
    byte = np.arange(256)
    high, low = byte >> 4, byte & 15
    table: Distances = (cost[high[:, None], high] + cost[low[:, None], low]).astype(np.uint16)
    return table


_RATIOS = _ratio_table()
