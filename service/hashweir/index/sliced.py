"""PDQ codes at scale: multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012), exact for every radius.

A code is cut into disjoint slices of bits (`layouts`). Where two codes differ in at most R bits, and slice i is
searched within radius r_i, they must be near in some slice as soon as the sum of (r_i + 1) is above R: otherwise they
would differ in at least r_i + 1 bits of each. This holds for any disjoint slices, whatever bits they leave out, so a
layout is replaced slice by slice under the eyes of searches.

A slice is a counting sort of the rows by their bits there, and covers the rows that there were when it was built. What
was added since is little: young slices over those rows alone are built in a hundredth of the time, and rows above
these, the tail, are scanned. One thread adds and withdraws, one tends, any number search: a search reads one immutable
version at its start.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashweir.index import _native
from hashweir.index.layouts import BITS, COSTS, Costs, Layout, layout_for, masks, spread
from hashweir.index.rows import SHIFT, Rows, pages, whole
from hashweir.ports import Hits

WIDTH: Final = BITS // 8


class SavedSlice(NamedTuple):
    """A slice as plain numbers: its layout, how many rows it covers, and two runs of uint32 as bytes."""

    first: int
    width: int
    covers: int
    starts: memoryview
    rows: memoryview


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice over the rows from `first` up to `covers`: two runs of uint32."""

    layout: Layout
    first: int
    covers: int
    starts: mmap.mmap
    rows: mmap.mmap


@dataclass(frozen=True, slots=True)
class _Slices:
    """One state of the slices: those of all rows, and the young ones, which are of the same rows, and no others.

    `plans` caches what follows from them, by radius: the layers of `_native.search`.
    """

    all: tuple[_Slice, ...] = ()
    young: tuple[_Slice, ...] = ()
    plans: dict[int, tuple[_native.Layer, ...]] = field(default_factory=dict)

    @property
    def covered(self) -> int:
        """Rows that are in every slice of all rows."""
        return min((one.covers for one in self.all), default=0)

    @property
    def reached(self) -> int:
        """Rows that are not scanned."""
        return max(self.covered, self.young[0].covers if self.young else 0)


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
            plan = slices.plans[radius] = _plan(slices, radius, self._costs)
        shift, level = self._rows.shift, self._level
        found = _native.search(codes, (), dead, shift, rows, plan, asked, radius, _native.HAMMING, level)
        return Hits(*np.frombuffer(found, np.int64).reshape(3, -1))

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes of rows, withdrawn ones included: (n, 32). Raises IndexError for a row never added."""
        return self._rows.read(0, rows)

    def tend(self) -> bool:
        """Build the young slices anew where that is due, else the one that is missing or furthest behind; whether more
        is due. One thread at a time.

        It serves on meanwhile: the GIL is released, and the memory on top is that one slice, or young ones.
        """
        rows, slices = self._rows.now.rows, self._slices
        if _young_due(slices, rows, self._costs):
            first = slices.covered
            young = tuple(self._build(layout, first, rows) for layout in layout_for(rows - first))
            self._slices = _Slices(slices.all, young)
        elif (due := _due(slices.all, rows, self._costs)) is not None:
            kept = tuple(one for one in slices.all if not _overlap(one.layout, due))
            slices = _Slices((*kept, self._build(due, 0, rows)), slices.young)
            self._slices = slices if slices.reached > slices.covered else _Slices(slices.all)
        rows = self._rows.now.rows
        return _young_due(self._slices, rows, self._costs) or _due(self._slices.all, rows, self._costs) is not None

    def _build(self, layout: Layout, first: int, end: int) -> _Slice:
        """A slice over the rows from the first up to the end."""
        starts, places = pages(((1 << layout.width) + 1) * 4), pages((end - first) * 4)
        _native.build(self._rows.now.columns[0], self._rows.shift, first, end, *layout, starts, places)
        return _Slice(layout, first, end, starts, places)

    def codes(self, rows: int) -> Iterator[memoryview]:
        """The codes of the first `rows` rows, concatenated, in several pieces."""
        return self._rows.column(0, rows)

    def slices(self) -> list[SavedSlice]:
        """What `adopt` takes, for the same codes in the same order: those of all rows."""
        return [
            SavedSlice(*one.layout, one.covers, memoryview(one.starts), memoryview(one.rows))
            for one in self._slices.all
        ]

    def adopt(self, slices: Sequence[SavedSlice]) -> None:
        """Take slices that an index made of the same codes. Raises ValueError for some that can't be searched."""
        found = tuple(_restored(one, self._rows.now.rows) for one in slices)
        if any(_overlap(one.layout, other.layout) for one, other in combinations(found, 2)):
            raise ValueError("slices share bits: a search by them would miss rows")
        self._slices = _Slices(found)

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
    return _Slice(Layout(one.first, one.width), 0, one.covers, starts, places)


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
    """How many rows may be left to young slices. Merging all slices passes over all rows, so it is due after a share of
    them; young slices of so many cost a search half of what those of all rows cost."""
    return max(costs.smallest // 2, rows // 32)


def _young_due(slices: _Slices, rows: int, costs: Costs) -> bool:
    """Whether so many rows are scanned that young slices pay: an eighth of those that are not merged yet.

    Where an eighth of all rows is not, merging is what pays.
    """
    unmerged = rows - slices.covered
    worth = costs.smallest <= unmerged <= rows // 8
    return worth and rows - slices.reached > max(costs.smallest // 2, unmerged // 8)


def _plan(slices: _Slices, radius: int, costs: Costs) -> tuple[_native.Layer, ...]:
    """Layers of slices where they should cost less than a scan."""
    covered, reached = slices.covered, slices.reached
    old = _layer(slices.all, 0, covered, radius, costs)
    if old is None:
        return ()
    first = slices.young[0].first if slices.young else covered
    if reached > covered and (young := _layer(slices.young, first, reached, radius, costs)):
        return (0, first, *old[2:]), young
    return (old,)


def _layer(slices: Sequence[_Slice], first: int, end: int, radius: int, costs: Costs) -> _native.Layer | None:
    """Rows that all of the slices hold; None where a scan of them should cost less.

    A query's candidates are counted before they are read, and it is scanned instead if that costs less. What was spent
    on probes by then is at most a fifth of the scan.
    """
    if not slices:
        return None
    scan = (end - first) * costs.scanned
    radii, cost = spread([one.layout.width for one in slices], radius, end - first, costs)
    searched = [(one, reach) for one, reach in zip(slices, radii, strict=True) if reach >= 0]
    probes = sum(comb(one.layout.width, bits) for one, reach in searched for bits in range(reach + 1))
    if cost > scan or probes * costs.probe > scan / 5:
        return None
    ways = tuple((*one.layout, reach, masks(one.layout.width, reach), one.starts, one.rows) for one, reach in searched)
    return first, end, int(scan / costs.candidate), ways
