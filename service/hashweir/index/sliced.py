"""PDQ codes at scale: multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012), exact for every radius.

A code is cut into disjoint slices of bits. Where two codes differ in at most R bits, and slice i is searched within
radius r_i, they must be near in some slice as soon as the sum of (r_i + 1) is above R: otherwise they would differ in
at least r_i + 1 bits of each. This holds for any disjoint slices, whatever bits they leave out, so a layout is
replaced slice by slice under the eyes of searches.

A slice is a counting sort of the rows by their bits there, and covers the rows that there were when it was built. Rows
above the shortest slice, the tail, are scanned. One thread adds and withdraws, one tends, any number search: a search
reads one immutable version at its start.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heapreplace
from math import comb
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _native
from hashweir.index.segments import Segments, pages
from hashweir.ports import Hits

BITS: Final = 256
WIDTH: Final = BITS // 8
DESIGN_RADIUS: Final = 31
"""Layouts are made for this one, PDQ's recommended radius (PDQ hashing document, Facebook 2019)."""
_NO_LIMIT: Final = 2**62


class Costs(NamedTuple):
    """Nanoseconds, which only decide between ways that all are exact. Measured by `tests.bench.index --costs`."""

    probe: float = 8.0
    candidate: float = 8.0
    scanned: float = 1.0
    smallest: int = 1 << 14
    """Rows from which slices are made."""


class Layout(NamedTuple):
    """Where a slice lies in a code."""

    first: int
    width: int


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice over the first `rows` rows; two runs of uint32."""

    layout: Layout
    covers: int
    starts: mmap.mmap
    rows: mmap.mmap


class _Plan(NamedTuple):
    """How one version is searched at one radius."""

    slices: tuple[_native.Slice, ...]
    covered: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Version:
    """What a search sees. `plans` only caches what follows from the rest."""

    codes: tuple[mmap.mmap, ...]
    dead: tuple[mmap.mmap, ...]
    rows: int
    slices: tuple[_Slice, ...]
    plans: dict[int, _Plan] = field(default_factory=dict)


class SlicedPdq:
    """Hamming distance over 256-bit codes (`ports.Index`)."""

    def __init__(self, costs: Costs = Costs(), *, shift: int = 20, level: int = _native.LEVEL) -> None:
        """An empty index, in segments of 2**shift rows. `level` bounds the instructions (`_native`)."""
        self._costs = costs
        self._level = level
        self._codes = Segments(WIDTH, shift)
        self._dead = Segments(1, shift)
        self._withdrawn = 0
        self._now = _Version((), (), 0, ())
        self._swap = Lock()

    def add(self, values: bytes) -> int:
        """Append concatenated codes; the first new row. Raises ValueError for another length, or above 2**32 rows."""
        if len(values) % WIDTH:
            raise ValueError(f"values are {WIDTH} bytes each, got {len(values)} bytes")
        first = self._now.rows
        rows = first + len(values) // WIDTH
        if rows >= 2**32:
            raise ValueError("an index has less than 2**32 rows")
        self._codes.write(first, values)
        self._dead.write(first, bytes(rows - first))
        # Only this makes the new rows visible, and by then they are complete.
        with self._swap:
            now = self._now
            # Plans hold below `covered`, so they outlive new rows; the tail is whatever lies above.
            self._now = _Version(self._codes.all, self._dead.all, rows, now.slices, now.plans)
        return first

    def withdraw(self, row: int) -> None:
        """Hide a row for ever; twice is allowed. Raises IndexError for a row that was never added."""
        if not 0 <= row < self._now.rows:
            raise IndexError(row)
        segment, place = self._dead.all[row >> self._dead.shift], row & ((1 << self._dead.shift) - 1)
        self._withdrawn += not segment[place]
        segment[place] = 1

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows within the radius of each query, withdrawn ones excepted.

        Raises ValueError for a length that is no multiple of a code's.
        """
        if len(queries) % WIDTH:
            raise ValueError(f"values are {WIDTH} bytes each, got {len(queries)} bytes")
        now = self._now
        if radius < 0:
            queries = b""
        radius = min(max(radius, 0), BITS)
        if (plan := now.plans.get(radius)) is None:
            plan = now.plans[radius] = _plan(now.slices, radius, self._costs)
        found = _native.search(
            now.codes,
            (),
            now.dead,
            self._codes.shift,
            now.rows,
            plan.slices,
            plan.covered,
            plan.limit,
            queries,
            radius,
            False,
            self._level,
        )
        return Hits(*np.frombuffer(found, np.int64).reshape(3, -1))

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes of rows, withdrawn ones included: (n, 32). Raises IndexError for a row never added."""
        if rows.size and not 0 <= rows.min() <= rows.max() < self._now.rows:
            raise IndexError(f"rows 0 to {self._now.rows - 1}")
        return self._codes.read(rows)

    def tend(self) -> bool:
        """Build the slice that is missing or furthest behind; whether more is due. One thread at a time.

        Beside serving: it releases the GIL, and its peak above what stays is that one slice.
        """
        now = self._now
        if (due := _due(now, self._costs)) is None:
            return False
        starts, rows = pages(((1 << due.width) + 1) * 4), pages(now.rows * 4)
        _native.build(now.codes, self._codes.shift, now.rows, due.first, due.width, starts, rows)
        built = _Slice(due, now.rows, starts, rows)
        with self._swap:
            now = self._now
            slices = [one for one in now.slices if not _overlap(one.layout, due)]
            slices = sorted((*slices, built), key=lambda one: one.layout)
            now = self._now = _Version(now.codes, now.dead, now.rows, tuple(slices))
        return _due(now, self._costs) is not None

    def __len__(self) -> int:
        """Rows that a search can return."""
        return self._now.rows - self._withdrawn


def _overlap(a: Layout, b: Layout) -> bool:
    return a.first < b.first + b.width and b.first < a.first + a.width


def _due(now: _Version, costs: Costs) -> Layout | None:
    """The slice to build next: a missing one of the layout, else the shortest once its tail costs something."""
    if now.rows < costs.smallest:
        return None
    have = {one.layout: one.covers for one in now.slices}
    wanted = layout_for(now.rows)
    shortest = min(wanted, key=lambda one: have.get(one, -1))
    tail = now.rows - have.get(shortest, -now.rows)
    return shortest if tail > max(costs.smallest // 2, now.rows // 512) else None


@lru_cache(64)
def _sizes(step: int) -> tuple[Layout, ...]:
    rows = (2 + step % 2) << (step // 2)
    best, least = (), float("inf")
    widest = max(8, min(28, rows.bit_length() - 1))
    for count in range(9, 33):
        widths = [min(BITS // count + (index < BITS % count), widest) for index in range(count)]
        cost = _spread(widths, DESIGN_RADIUS, rows, Costs())[1]
        if cost < least:
            ends = np.cumsum(widths).tolist()
            best, least = tuple(Layout(end - width, width) for end, width in zip(ends, widths)), cost
    return best


def layout_for(rows: int) -> tuple[Layout, ...]:
    """The slices for so many rows: those that cost least at the design radius, for rows rounded down to 2 or 3 * 2**n.

    A slice is no wider than there are rows for its buckets: its starts then cost at most 4 bytes an entry.
    """
    half = rows.bit_length() - 2
    return _sizes(2 * half + (rows >> half & 1))


def _spread(widths: Sequence[int], radius: int, rows: int, costs: Costs) -> tuple[list[int], float]:
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
            return radii, float("inf")
        heapreplace(heap, (comb(widths[index], radii[index] + 1) * each[index], index))
    return radii, cost


def _plan(slices: Sequence[_Slice], radius: int, costs: Costs) -> _Plan:
    """Slices where they are expected to cost less than a scan, and their probes alone, which are spent before the
    candidates are known, at most a fifth of one."""
    covered = min((one.covers for one in slices), default=0)
    scan = covered * costs.scanned
    if not covered:
        return _Plan((), 0, 0)
    radii, cost = _spread([one.layout.width for one in slices], radius, covered, costs)
    if cost > scan:
        return _Plan((), 0, 0)
    searched = [(one, reach) for one, reach in zip(slices, radii, strict=True) if reach >= 0]
    probes = sum(masks(one.layout.width, reach).size for one, reach in searched)
    if probes * costs.probe > scan / 5:
        return _Plan((), 0, 0)
    limit = int(min(scan / costs.candidate, _NO_LIMIT)) if costs.candidate else _NO_LIMIT
    ways = tuple((*one.layout, reach, masks(one.layout.width, reach), one.starts, one.rows) for one, reach in searched)
    return _Plan(ways, covered, limit)


@lru_cache(64)
def masks(width: int, radius: int) -> NDArray[np.uint32]:
    """All numbers of `width` bits of which at most `radius` are set, ascending: neighbours share cache lines."""
    level = found = np.zeros(1, np.uint32)
    for _ in range(radius):
        level = np.concatenate([level[level < 1 << bit] | np.uint32(1 << bit) for bit in range(width)])
        found = np.concatenate([found, level])
    return np.sort(found)
