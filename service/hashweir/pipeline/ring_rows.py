"""Tables of a block of the look-back's ring: they grow at their end, beside whoever reads what stood there before."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.index.scan import FRONT
from hashweir.model import Kind
from hashweir.ports import Index

Keys = NDArray[np.uint64]


class Values(NamedTuple):
    """Hash values of one kind: `values` (n, width) uint8, and `owner` (n,), the place of each one's upload.

    `keys` (n,) are the first 8 bytes of each value, of kinds that are compared for equality only; `fronts` (n, 16) the
    first 16, of kinds that are scanned as plain codes. `searched` has the values of kinds that are neither, in this
    order and perhaps more of them.
    """

    values: NDArray[np.uint8]
    owner: NDArray[np.uint32]
    keys: Keys
    fronts: NDArray[np.uint8]
    searched: Index | None


class Rows:
    """A table that grows at its end. An old table lives on in whoever was given it."""

    def __init__(self, dtype: Any, width: int = 0) -> None:
        self._rows: NDArray[Any] = np.zeros((0, width) if width else 0, dtype)
        self._count = 0

    def extend(self, more: NDArray[Any]) -> None:
        count = self._count + len(more)
        if count > len(self._rows):
            self._room(max(64, count, 2 * len(self._rows)))
        self._rows[self._count : count] = more
        self._count = count

    def append(self, one: int) -> None:
        if self._count == len(self._rows):
            self._room(max(64, 2 * self._count))
        self._rows[self._count] = one
        self._count += 1

    def fill(self, rows: NDArray[Any]) -> None:
        self._rows, self._count = rows.copy(), len(rows)

    def trim(self) -> None:
        self._room(self._count)

    def now(self) -> NDArray[Any]:
        return self._rows[: self._count]

    def _room(self, rows: int) -> None:
        wider = np.zeros((rows, *self._rows.shape[1:]), self._rows.dtype)
        wider[: self._count] = self._rows[: self._count]
        self._rows = wider

    def __len__(self) -> int:
        return self._count


def is_exact(kind: Kind) -> bool:
    """Whether a kind is only ever compared for equality."""
    return kind in ("sha256", "md5", "text")


def is_code(kind: Kind) -> bool:
    """Whether a kind is compared bit by bit and nothing else."""
    return kind == "pdq"


def beside(kind: Kind) -> int:
    """Bytes that stand beside each value of a kind: its upload's place, its key or front."""
    return 4 + (8 if is_exact(kind) else 0) + (FRONT if is_code(kind) else 0)


def keys_of(values: NDArray[np.uint8]) -> Keys:
    """The first 8 bytes of each value, (n, width) to (n,)."""
    return np.ascontiguousarray(values[:, :8]).view(np.uint64)[:, 0]
