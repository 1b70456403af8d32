"""Which of many codes are near one code: a scan over a plain array, for codes that come and go too fast to index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _native


def near(codes: NDArray[np.uint8], query: bytes, radius: int, level: int = _native.LEVEL) -> NDArray[np.int64]:
    """Rows of `codes` (n, 32), contiguous, within `radius` bits of `query` (32 bytes), ascending. Exact.

    `level` bounds the instructions (`_native`).
    """
    rows = len(codes)
    alive, shift = np.zeros(rows, np.uint8), max(9, (rows - 1).bit_length())
    found = _native.search(
        (codes.data,), (b"",), (alive.data,), shift, rows, (), 0, 0, query, radius, _native.HAMMING, level
    )
    _, found_rows, _ = np.frombuffer(found, np.int64).reshape(3, -1)
    return found_rows
