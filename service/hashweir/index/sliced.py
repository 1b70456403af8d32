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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heapreplace
from math import comb, inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _native
from hashweir.index.rows import SHIFT, Rows, pages, whole
from hashweir.ports import Hits

BITS: Final = 256
WIDTH: Final = BITS // 8
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


class SavedSlice(NamedTuple):
    """A slice as plain numbers: its layout, how many rows it covers, and two runs of uint32 as bytes."""

    first: int
    width: int
    covers: int
    starts: memoryview
    rows: memoryview


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice over the first `covers` rows: two runs of uint32."""

    layout: Layout
    covers: int
    starts: mmap.mmap
    rows: mmap.mmap


class _Plan(NamedTuple):
    """How slices are searched at one radius: arguments of `_native.search`."""

    slices: tuple[_native.Slice, ...] = ()
    covered: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class _Slices:
    """One state of the slices. `plans` caches what follows from them, by radius."""

    all: tuple[_Slice, ...] = ()
    plans: dict[int, _Plan] = field(default_factory=dict)


class SlicedPdq:
    """Hamming distance over 256-bit codes (`ports.Index`)."""

    def __init__(self, costs: Costs = COSTS, *, shift: int = SHIFT, level: int = _native.LEVEL) -> None:
        """An empty index, in segments of 2**shift rows. `level` bounds the instructions (`_native`)."""
        self._costs = costs
        self._level = level
        self._rows = Rows(WIDTH, shift=shift)
        self._slices = _Slices()

    def add(self, values: bytes) -> int:
        """Append concatenated codes; the first new row. Raises ValueError for another length, or above 2**32 rows."""
        return self._rows.append(whole(values, WIDTH))

    def withdraw(self, rows: int | NDArray[np.int64]) -> None:
        """Hide one row or several for ever; twice is allowed. Raises IndexError for one that was never added."""
        self._rows.withdraw(rows)

    def search(self, queries: bytes, radius: int) -> Hits:
        """All rows within the radius of each query, withdrawn ones excepted.

        Raises ValueError for a length that is no multiple of a code's.
        """
        whole(queries, WIDTH)
        # In this order: rows that were added since the slices were read only lengthen the tail.
        slices = self._slices
        (codes,), dead, rows = self._rows.now
        asked, radius = (queries, min(radius, BITS)) if radius >= 0 else (b"", 0)
        if (plan := slices.plans.get(radius)) is None:
            plan = slices.plans[radius] = _plan(slices.all, radius, self._costs)
        shift, level = self._rows.shift, self._level
        found = _native.search(codes, (), dead, shift, rows, *plan, asked, radius, _native.HAMMING, level)
        return Hits(*np.frombuffer(found, np.int64).reshape(3, -1))

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes of rows, withdrawn ones included: (n, 32). Raises IndexError for a row never added."""
        return self._rows.read(0, rows)

    def tend(self) -> bool:
        """Build the slice that is missing or furthest behind; whether more is due. One thread at a time.

        It serves on meanwhile: the GIL is released, and the memory on top is that one slice.
        """
        (codes,), _, rows = self._rows.now
        slices = self._slices.all
        if (due := _due(slices, rows, self._costs)) is not None:
            starts, places = pages(((1 << due.width) + 1) * 4), pages(rows * 4)
            _native.build(codes, self._rows.shift, rows, due.first, due.width, starts, places)
            slices = tuple(one for one in slices if not _overlap(one.layout, due))
            slices += (_Slice(due, rows, starts, places),)
            self._slices = _Slices(slices)
        return _due(slices, self._rows.now.rows, self._costs) is not None

    def codes(self, rows: int) -> Iterator[memoryview]:
        """The codes of the first `rows` rows, concatenated, in several pieces."""
        return self._rows.column(0, rows)

    def slices(self) -> list[SavedSlice]:
        """What `adopt` takes, for the same codes in the same order."""
        return [
            SavedSlice(*one.layout, one.covers, memoryview(one.starts), memoryview(one.rows))
            for one in self._slices.all
        ]

    def adopt(self, slices: Sequence[SavedSlice]) -> None:
        """Take slices that an index made of the same codes. Raises ValueError for some that can't be searched."""
        self._slices = _Slices(tuple(_restored(one, self._rows.now.rows) for one in slices))

    def __len__(self) -> int:
        """Rows that a search can return."""
        return len(self._rows)


def _restored(one: SavedSlice, rows: int) -> _Slice:
    """A slice in memory of its own; every number in it leads to where there is something."""
    buckets = 1 << one.width if 1 <= one.width <= 28 else 0
    fits = buckets and 0 <= one.first <= BITS - one.width and 0 < one.covers <= rows
    if not fits or len(one.starts) < (buckets + 1) * 4 or len(one.rows) < one.covers * 4:
        raise ValueError("a slice does not fit its index")
    starts, places = pages((buckets + 1) * 4), pages(one.covers * 4)
    for memory, saved in ((starts, one.starts), (places, one.rows)):
        to = np.frombuffer(memory, np.uint32)
        to[:] = np.frombuffer(saved, np.uint32, len(to))
    first = np.frombuffer(starts, np.uint32)
    ends = first[0] == 0 and first[-1] == one.covers
    if not ends or (first[1:] < first[:-1]).any() or np.frombuffer(places, np.uint32).max() >= one.covers:
        raise ValueError("a slice leads beyond its index")
    return _Slice(Layout(one.first, one.width), one.covers, starts, places)


def _overlap(a: Layout, b: Layout) -> bool:
    return a.first < b.first + b.width and b.first < a.first + a.width


def _due(slices: Sequence[_Slice], rows: int, costs: Costs) -> Layout | None:
    """The slice to build next: a missing one, else the shortest, once its tail costs a search something."""
    if rows < costs.smallest:
        return None
    covers = {one.layout: one.covers for one in slices}
    shortest = min(layout_for(rows), key=lambda one: covers.get(one, -1))
    behind = rows - covers[shortest] if shortest in covers else rows
    return shortest if behind > _behind(rows, costs) else None


def _behind(rows: int, costs: Costs) -> int:
    """How long a tail may be. Merging all slices passes over all rows, so it is due after a share of them: a tail of
    this length costs a search less than half of what its slices cost."""
    return max(costs.smallest // 2, rows // 256)


@lru_cache(64)
def _sizes(step: int) -> tuple[Layout, ...]:
    rows = (2 + step % 2) << (step // 2)
    best: tuple[Layout, ...] = ()
    least = inf
    widest = max(8, min(28, rows.bit_length() - 1))
    for count in range(9, 33):
        widths = [min(BITS // count + (index < BITS % count), widest) for index in range(count)]
        cost = _spread(widths, DESIGN_RADIUS, rows, COSTS)[1]
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
            return radii, inf
        heapreplace(heap, (comb(widths[index], radii[index] + 1) * each[index], index))
    return radii, cost


def _plan(slices: Sequence[_Slice], radius: int, costs: Costs) -> _Plan:
    """Slices where they should cost less than a scan, else a scan.

    A query's candidates are counted before they are read, and it is scanned instead if that costs less. What was spent
    on probes by then is at most a fifth of the scan.
    """
    if not slices:
        return _Plan()
    covered = min(one.covers for one in slices)
    scan = covered * costs.scanned
    radii, cost = _spread([one.layout.width for one in slices], radius, covered, costs)
    searched = [(one, reach) for one, reach in zip(slices, radii, strict=True) if reach >= 0]
    probes = sum(comb(one.layout.width, bits) for one, reach in searched for bits in range(reach + 1))
    if cost > scan or probes * costs.probe > scan / 5:
        return _Plan()
    ways = tuple((*one.layout, reach, masks(one.layout.width, reach), one.starts, one.rows) for one, reach in searched)
    return _Plan(ways, covered, int(scan / costs.candidate))


@lru_cache(16)
def masks(width: int, radius: int) -> bytes:
    """All numbers of `width` bits of which at most `radius` are set, as uint32, ascending: neighbours share lines."""
    level = found = np.zeros(1, np.uint32)
    for _ in range(radius):
        level = np.concatenate([level[level < 1 << bit] | np.uint32(1 << bit) for bit in range(width)])
        found = np.concatenate([found, level])
    return np.sort(found).tobytes()
