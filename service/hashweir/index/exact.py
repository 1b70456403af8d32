"""A dict for the exact kinds: sha256, md5, and the digest of a text's normal form."""

from __future__ import annotations


class ExactIndex:
    """Equality over digests. The distance is 0; no radius makes unequal digests near.

    One thread adds and withdraws; others search meanwhile: each value's rows are an immutable tuple that is replaced
    at once.
    """

    def __init__(self, width: int) -> None:
        """An empty index over digests of `width` bytes."""
        self.width = width
        self._rows: dict[bytes, tuple[int, ...]] = {}
        self._values: list[bytes | None] = []
        self._alive = 0

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
            self._alive += 1
        return first

    def withdraw(self, row: int) -> None:
        """Hide a row for ever; twice is allowed. Raises IndexError for a row that was never added."""
        if row < 0:
            raise IndexError(row)
        value = self._values[row]
        if value is None:
            return
        self._values[row] = None
        self._alive -= 1
        if rest := tuple(other for other in self._rows[value] if other != row):
            self._rows[value] = rest
        else:
            del self._rows[value]

    def search(self, queries: bytes, radius: int) -> list[tuple[int, int, int]]:
        """All (query, row, 0) of equal digests, withdrawn rows excepted, ordered by query, then row.

        Raises ValueError for a length that is no multiple of `width`.
        """
        if radius < 0:
            return []
        return [
            (query, row, 0) for query, value in enumerate(self._split(queries)) for row in self._rows.get(value, ())
        ]

    def __len__(self) -> int:
        """Rows that a search can return."""
        return self._alive
