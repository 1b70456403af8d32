"""TLSH's distance over two bit planes, scanned in C. `flat.FlatTlsh` has the formula."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _native
from hashweir.index.flat import TLSH_BYTES, body_of, planes_of
from hashweir.index.rows import SHIFT, Rows, whole
from hashweir.ports import Hits

_PLANES = 32
_HEAD = [0, 2, 1]
"""Checksum, quartile ratios, length: places in a value, and the other way round."""
_FARTHEST = 1 << 20
"""Above every distance: 128 buckets at 6, checksum 1, ratios 2 x 84, length 12 x 128."""


class NativeTlsh:
    """TLSH's `diffxlen`, or `diff` where the length counts, over values of 35 bytes (`ports.Index`)."""

    def __init__(self, *, length_counts: bool = False, shift: int = SHIFT, level: int = _native.LEVEL) -> None:
        """An empty index, in segments of 2**shift rows. `level` bounds the instructions (`_native`)."""
        self._measure = _native.DIFF if length_counts else _native.DIFFXLEN
        self._level = level
        self._rows = Rows(_PLANES, len(_HEAD), shift=shift)

    def add(self, values: bytes) -> int:
        """Append concatenated values; the first new row. Raises ValueError for another length, or above 2**32 rows."""
        octets = _octets(values)
        return self._rows.append(planes_of(octets).tobytes(), octets[:, _HEAD].tobytes())

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever; twice is allowed. Raises IndexError for one that was never added."""
        self._rows.withdraw(rows)

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows within the radius of each query, withdrawn ones excepted.

        Raises ValueError for a length that is no multiple of a value's.
        """
        octets = _octets(queries)
        (planes, heads), dead, rows = self._rows.now
        asked = np.hstack([planes_of(octets), octets[:, _HEAD]]).tobytes() if radius >= 0 else b""
        radius = max(0, min(radius, _FARTHEST))
        shift, level = self._rows.shift, self._level
        found = _native.search(planes, heads, dead, shift, rows, (), asked, radius, self._measure, level)
        return Hits(*np.frombuffer(found, np.int64).reshape(3, -1))

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The values of rows, withdrawn ones included: (n, 35). Raises IndexError for a row never added."""
        return np.hstack([self._rows.read(1, rows)[:, _HEAD], body_of(self._rows.read(0, rows))])

    def tend(self) -> bool:
        """Nothing is ever due."""
        return False

    def __len__(self) -> int:
        """Rows that a search can return."""
        return len(self._rows)


def _octets(values: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(whole(values, TLSH_BYTES), np.uint8).reshape(-1, TLSH_BYTES)
