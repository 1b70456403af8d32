"""How a 256-bit code is cut into slices: which cut costs least, and how near each slice has to be searched.

Where two codes differ in at most R bits, and slice i is searched within radius r_i, they must be near in some slice as
soon as the sum of (r_i + 1) is above R (Norouzi, Punjani, Fleet, CVPR 2012). Widths and radii follow from a model of
costs, and all of them are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heapreplace
from math import comb, inf
from typing import Final, NamedTuple

import numpy as np

BITS: Final = 256
DESIGN_RADIUS: Final = 31
"""Layouts are made for this one, PDQ's recommended radius (PDQ hashing document, Facebook 2019)."""


class Costs(NamedTuple):
    """Nanoseconds, measured (`decisions/0010-the-sliced-index.md`); they choose between ways that are all exact."""

    probe: float = 12.0
    candidate: float = 12.0
    scanned: float = 1.2
    smallest: int = 1 << 14
    """Rows from which slices are made."""


COSTS: Final = Costs()


class Layout(NamedTuple):
    """Where a slice lies in a code."""

    first: int
    width: int


@lru_cache(64)
def _sizes(step: int) -> tuple[Layout, ...]:
    rows = (2 + step % 2) << (step // 2)
    best: tuple[Layout, ...] = ()
    least = inf
    widest = max(8, min(28, rows.bit_length() - 1))
    for count in range(9, 33):
        widths = [min(BITS // count + (index < BITS % count), widest) for index in range(count)]
        cost = spread(widths, DESIGN_RADIUS, rows, COSTS)[1]
        if cost < least:
            ends = np.cumsum(widths).tolist()
            best, least = tuple(Layout(end - width, width) for end, width in zip(ends, widths, strict=True)), cost
    return best


def layout_for(rows: int) -> tuple[Layout, ...]:
    """The slices for so many rows: those that cost least at the design radius, for rows rounded down to 2 or 3 * 2**n.

    A slice is no wider than there are rows for its buckets: its starts then cost at most 4 bytes an entry.
    """
    half = max(rows.bit_length() - 2, 0)
    return _sizes(2 * half + (rows >> half & 1))


def spread(widths: Sequence[int], radius: int, rows: int, costs: Costs) -> tuple[list[int], float]:
    """Radii per slice (-1: not searched) with a sum of (r + 1) above the radius, and nanoseconds a query.

    Always the next bit where it costs least. That is the optimum while comb(width, r) grows with r, which is up to half
    of a width; what lies above costs more than a scan.
    """
    each = [costs.probe + costs.candidate * rows / (1 << width) for width in widths]
    radii, cost = [-1] * len(widths), 0.0
    heap = [(each[index], index) for index in range(len(widths))]
    heapify(heap)
    for _ in range(radius + 1):
        more, index = heap[0]
        radii[index] += 1
        cost += more
        if radii[index] >= widths[index] // 2:
            return radii, inf
        heapreplace(heap, (comb(widths[index], radii[index] + 1) * each[index], index))
    return radii, cost


@lru_cache(16)
def masks(width: int, radius: int) -> bytes:
    """All numbers of `width` bits of which at most `radius` are set, as uint32, ascending: neighbours share lines."""
    level = found = np.zeros(1, np.uint32)
    for _ in range(radius):
        level = np.concatenate([level[level < 1 << bit] | np.uint32(1 << bit) for bit in range(width)])
        found = np.concatenate([found, level])
    return np.sort(found).tobytes()
