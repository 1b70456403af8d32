"""Which of many codes are near one code: a scan over plain arrays, for codes that come and go too fast to index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _near
from hashweir.index._native import LEVEL

FRONT = 16
"""Bytes of a code that are looked at first; `fronts` are those of each."""


def near(
    fronts: NDArray[np.uint8], codes: NDArray[np.uint8], query: bytes, radius: int, level: int = LEVEL
) -> NDArray[np.int64]:
    """Rows of `codes` (n, 32), contiguous, within `radius` bits of `query` (32 bytes), ascending. Exact.

    `fronts` (n, 16), contiguous, are the first bytes of each code. `level` bounds the instructions (`_native`).
    """
    return np.frombuffer(_near.near(fronts.data, codes.data, query, radius, level), np.int64)
