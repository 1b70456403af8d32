"""A dict for the exact kinds: sha256, md5, and the digest of a text's normal form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashweir.ports import Hits


class ExactIndex:
    """Equality over digests. The distance is 0; no radius makes unequal digests near.

    One thread adds and withdraws; others search meanwhile: each value's rows are an immutable tuple that is replaced
    at once.
    """

    def __init__(self, width: int) -> None:
        """An empty index over digests of `width` bytes."""
        self.width = width
        self._rows: dict[bytes, tuple[int, ...]] = {}
        self._values: list[bytes] = []
        self._withdrawn: set[int] = set()

    def _split(self, values: bytes) -> list[bytes]:
        if len(values) % self.width:
            raise ValueError(f"values are {self.width} bytes each, got {len(values)} bytes")
        return [values[at : at + self.width] for at in range(0, len(values), self.width)]

    def add(self, values: bytes) -> int:
        """Append concatenated digests; the first new row. Raises ValueError for another length."""
        first = len(self._values)
        for row, value in enumerate(self._split(values), first):
            self._values.append(value)
            self._rows[value] = (*self._rows.get(value, ()), row)
        return first

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever; twice is allowed. Raises IndexError for one that was never added."""
        for row in np.atleast_1d(rows).tolist():
            self._withdraw(row)

    def _withdraw(self, row: int) -> None:
        if row < 0:
            raise IndexError(row)
        value = self._values[row]
        if row in self._withdrawn:
            return
        self._withdrawn.add(row)
        if rest := tuple(other for other in self._rows[value] if other != row):
            self._rows[value] = rest
        else:
            del self._rows[value]

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows of equal digests, withdrawn rows excepted, at distance 0.

        Raises ValueError for a length that is no multiple of `width`.
        """
        asked = self._split(queries) if radius >= 0 else []
        pairs = [(query, row) for query, value in enumerate(asked) for row in self._rows.get(value, ())]
        query, row = np.array(pairs, np.int64).reshape(-1, 2).T
        return Hits(query, row, np.zeros(len(pairs), np.int64))

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The values of rows, withdrawn ones included: (n, width). Raises IndexError for a row never added."""
        if rows.size and rows.min() < 0:
            raise IndexError(int(rows.min()))
        return np.frombuffer(b"".join([self._values[row] for row in rows.tolist()]), np.uint8).reshape(-1, self.width)

    def tend(self) -> bool:
        """Nothing is ever due."""
        return False

    def __len__(self) -> int:
        """Rows that a search can return."""
        return len(self._values) - len(self._withdrawn)
