"""Which of many codes are near one code: a scan over a plain array, for codes that come and go too fast to index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 65_536
"""Rows compared at a time: 2 MiB of codes, so that what is computed of them stays in the processor's cache."""


def near(codes: NDArray[np.uint8], query: bytes, radius: int) -> NDArray[np.intp]:
    """Rows of `codes` (n, 32) within `radius` bits of `query` (32 bytes), ascending. Exact."""
    words, wanted = codes.view(np.uint64), np.frombuffer(query, np.uint64)
    found = []
    for first in range(0, len(words), _ROWS):
        bits = np.bitwise_count(words[first : first + _ROWS] ^ wanted)  # of four words, at most 64 in each
        far = bits[:, 0].astype(np.uint16) + bits[:, 1] + bits[:, 2] + bits[:, 3]
        found.append(np.nonzero(far <= radius)[0] + first)
    return np.concatenate(found) if found else np.zeros(0, np.intp)
