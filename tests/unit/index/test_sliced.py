"""The sliced index against the flat scan: the same hits at every size and radius, whatever happens in between.

Long because the same oracle judges it in every state of its upkeep.
"""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from hashweir.hashing import HASHERS
from hashweir.index import _native, sliced
from hashweir.index.flat import FlatPdq
from hashweir.index.layouts import Costs, layout_for, masks
from hashweir.index.sliced import SlicedPdq

SEED = 7
RADII = (0, 10, 31, 32, 40, 64, 128, 256)
ALWAYS = Costs(probe=1e-6, candidate=1e-6, smallest=1)
"""Slices wherever there can be any."""
LEVELS = range(_native.LEVEL + 1)

Codes = NDArray[np.uint8]


def codes(rng: np.random.Generator, rows: int) -> Codes:
    """Random codes."""
    return rng.integers(0, 256, (rows, 32), np.uint8)


def flipped(rng: np.random.Generator, code: Codes, bits: int) -> Codes:
    """The code with exactly so many bits turned over."""
    mask = np.zeros(256, np.uint8)
    mask[rng.choice(256, bits, replace=False)] = 1
    return code ^ np.packbits(mask)


def tended(index: SlicedPdq) -> SlicedPdq:
    """With all upkeep done."""
    while index.tend():
        pass
    return index


def around(rng: np.random.Generator, known: Codes, count: int, farthest: int = 70) -> bytes:
    """Queries: every other one at a distance of 0 to `farthest` from a known code, the rest random."""
    asked = codes(rng, count)
    for number in range(0, count if len(known) else 0, 2):
        asked[number] = flipped(rng, known[rng.integers(len(known))], number // 2 % (farthest + 1))
    return asked.tobytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [0, 1, 2, 1000, 3000])
def test_hits_are_those_of_the_flat_scan(rows: int, level: int) -> None:
    """At every radius, with tombstones, clusters and a tail above the slices, across segments."""
    rng = np.random.default_rng(SEED + rows)
    known = codes(rng, rows)
    for row in range(0, rows, 3):
        known[row] = flipped(rng, known[row // 2], int(rng.integers(0, 45)))
    flat, index = FlatPdq(), SlicedPdq(ALWAYS, shift=9, level=level)
    split = rows * 9 // 10
    flat.add(known.tobytes())
    index.add(known[:split].tobytes())
    tended(index).add(known[split:].tobytes())
    for row in rng.choice(rows, rows // 10, replace=False).tolist():
        flat.withdraw(row)
        index.withdraw(row)
    asked = around(rng, known, 40)
    for radius in RADII:
        assert index.search(asked, radius).tuples() == flat.search(asked, radius).tuples()
        one = asked[:32]
        assert index.search(one, radius).tuples() == flat.search(one, radius).tuples()
    assert index.search(asked, -1).tuples() == []
    assert index.values(np.arange(rows)).tobytes() == known.tobytes()


def test_the_radius_is_exact() -> None:
    """Codes at exactly 31 bits are found at 31, those at 32 are not; wherever the bits lie, also all in few slices."""
    rng = np.random.default_rng(SEED)
    query = codes(rng, 1)[0]
    planted = [flipped(rng, query, bits) for bits in (31, 32) for _ in range(500)]
    for start in range(256 - 32):
        for bits in (31, 32):
            mask = np.zeros(256, np.uint8)
            mask[start : start + bits] = 1
            planted.append(query ^ np.packbits(mask))
    index = SlicedPdq(ALWAYS)
    index.add(np.array(planted).tobytes())
    tended(index)
    far = [HASHERS["pdq"].distance(query.tobytes(), one.tobytes()) for one in planted]
    assert set(far) == {31, 32}
    for radius in (31, 32):
        expected = [(0, row, bits) for row, bits in enumerate(far) if bits <= radius]
        assert index.search(query.tobytes(), radius).tuples() == expected


@pytest.mark.slow
def test_hits_at_a_million() -> None:
    """Recall and distances are those of brute force over a million codes with near ones, at every radius."""
    rng = np.random.default_rng(SEED)
    known = codes(rng, 1_000_000)
    for row in range(0, 3000, 3):
        known[row + 1] = flipped(rng, known[row], row % 65)
    index, asked = SlicedPdq(), around(rng, known, 132, 65) + known[:60:3].tobytes()
    index.add(known.tobytes())
    tended(index).add(known[:5].tobytes())
    words = np.concatenate([known, known[:5]]).view(np.uint64)
    queries = np.frombuffer(asked, np.uint64).reshape(-1, 4)
    apart = [sum(np.bitwise_count(words[:, k] ^ one[k]).astype(int) for k in range(4)) for one in queries]
    for radius in (0, 10, 31, 32, 40, 64):
        expected = [
            (number, row, int(far[row]))
            for number, far in enumerate(apart)
            for row in np.nonzero(far <= radius)[0].tolist()
        ]
        assert index.search(asked, radius).tuples() == expected


def test_a_layout_is_replaced_slice_by_slice_and_searches_stay_exact() -> None:
    """After growth to where another layout is cheaper, every state on the way answers as the flat scan."""
    rng = np.random.default_rng(SEED)
    known, flat, index = codes(rng, 9000), FlatPdq(), SlicedPdq(ALWAYS)
    flat.add(known.tobytes())
    asked = around(rng, known, 120)
    index.add(known[:100].tobytes())
    tended(index)
    index.add(known[100:].tobytes())
    assert layout_for(100) != layout_for(9000)
    seen = set()
    more = True
    while more:
        more = index.tend()
        have = [one.layout for one in index._slices.all]
        seen.add(len(set(have) - set(layout_for(9000))))
        taken = [bit for first, width in have for bit in range(first, first + width)]
        assert len(taken) == len(set(taken))
        for radius in (31, 64):
            assert index.search(asked, radius).tuples() == flat.search(asked, radius).tuples()
    assert len(seen) > 2
    assert seen >= {0}


def test_rows_that_are_not_merged_yet_are_in_young_slices() -> None:
    """While an index grows, young slices come and go with the merging, and every state answers as the flat scan."""
    rng = np.random.default_rng(SEED)
    known, flat, index = codes(rng, 16_000), FlatPdq(), SlicedPdq(ALWAYS, shift=9)
    for first in range(9_000, 16_000, 3):
        known[first] = flipped(rng, known[first // 2], first % 40)
    flat.add(known[:9_000].tobytes())
    index.add(known[:9_000].tobytes())
    tended(index)
    seen = set()
    for first in range(9_000, 16_000, 40):
        some = known[first : first + 40].tobytes()
        flat.add(some)
        index.add(some)
        index.tend()
        flat.withdraw(first - 1)
        index.withdraw(first - 1)
        slices = index._slices
        seen.add((slices.young[0].first, slices.covered == slices.young[0].first, slices.reached == first + 40))
        asked = around(rng, known[: first + 40], 12)
        for radius in (31, 64):
            assert index.search(asked, radius).tuples() == flat.search(asked, radius).tuples()
    begun, unmerged, scanned = (set(one) for one in zip(*seen, strict=True))
    assert len(begun) > 3
    assert unmerged == scanned == {True, False}
    index.add(known[:1_000].tobytes())
    assert index._slices.reached < index._slices.covered + 1_000
    tended(index)
    assert index._slices.covered == 17_000
    assert not index._slices.young


def test_more_candidates_than_a_scan_costs_are_scanned() -> None:
    """A query in a bucket that holds everything gets all its hits once, and so does an ordinary one."""
    rng = np.random.default_rng(SEED)
    known = codes(rng, 40_000)
    known[:20_000, :12] = known[0, :12]
    known[20_000:30_000] = known[20_000]
    flat, index = FlatPdq(), SlicedPdq()
    flat.add(known.tobytes())
    index.add(known.tobytes())
    tended(index)
    asked = known[[0, 20_000, 39_999]].tobytes()
    for radius in (0, 31):
        assert index._slices.all
        found = index.search(asked, radius)
        expected = flat.search(asked, radius)
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("width", [1, 5, 12])
def test_masks(width: int) -> None:
    """Every number of so many bits of which at most so many are set, once."""
    for radius in range(width + 1):
        expected = [number for number in range(1 << width) if number.bit_count() <= radius]
        assert np.frombuffer(masks(width, radius), np.uint32).tolist() == expected


class Model(RuleBasedStateMachine):
    """Adds, withdrawals and upkeep in any order against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.rows = 0

    @initialize(level=st.sampled_from(LEVELS), seed=st.integers(0, 2**32))
    def begin(self, level: int, seed: int) -> None:
        """Any instructions."""
        self.index = SlicedPdq(ALWAYS, shift=9, level=level)
        self.rng = np.random.default_rng(seed)
        self.base = codes(self.rng, 4)

    def near(self, bits: int) -> Codes:
        """A code at this distance from one of four."""
        return flipped(self.rng, self.base[self.rng.integers(4)], bits)

    @rule(count=st.sampled_from([1, 2, 100, 600]), bits=st.integers(0, 40))
    def add(self, count: int, bits: int) -> None:
        """One or many."""
        some = np.array([self.near(bits) for _ in range(count)])
        assert self.index.add(some.tobytes()) == self.rows
        self.alive |= {row: int.from_bytes(code.tobytes(), "big") for row, code in enumerate(some, self.rows)}
        self.rows += count

    @rule(where=st.floats(0, 1, exclude_max=True))
    def withdraw(self, where: float) -> None:
        """Any row, also twice."""
        if self.rows:
            row = int(where * self.rows)
            self.index.withdraw(row)
            self.alive.pop(row, None)

    @rule(times=st.integers(1, 40))
    def tend(self, times: int) -> None:
        """Some upkeep."""
        for _ in range(times):
            self.index.tend()

    @rule(bits=st.integers(0, 60), radius=st.sampled_from([0, 10, 31, 32, 40, 64, 256]))
    def search(self, bits: int, radius: int) -> None:
        """As the dictionary says."""
        asked = [self.near(bits), self.near(bits)]
        expected = []
        for number, one in enumerate(asked):
            wanted = int.from_bytes(one.tobytes(), "big")
            far = [(number, row, (code ^ wanted).bit_count()) for row, code in self.alive.items()]
            expected += sorted(hit for hit in far if hit[2] <= radius)
        assert self.index.search(b"".join(one.tobytes() for one in asked), radius).tuples() == expected

    @invariant()
    def length(self) -> None:
        """Rows alive."""
        if self.rows:
            assert len(self.index) == len(self.alive)


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestModel: Any = Model.TestCase


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_two_hundred_merges_leave_no_memory_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices are built anew, searched and given back; what is resident does not grow with their number."""
    index, rng = SlicedPdq(Costs(smallest=2)), np.random.default_rng(SEED)
    index.add(codes(rng, 100_000).tobytes())
    tended(index)
    one, asked = codes(rng, 1).tobytes(), codes(rng, 64).tobytes()
    monkeypatch.setattr(sliced, "_behind", lambda rows, costs: 0)

    def merge(times: int) -> int:
        for _ in range(times):
            index.add(one)
            index.tend()
            index.search(asked, 31)
        gc.collect()
        return resident()

    before = merge(40)
    assert merge(200) - before < 4 << 20


def test_searches_overlap_merges() -> None:
    """While one thread adds and withdraws and another tends, searches find what was there before, and no withdrawn."""
    rng = np.random.default_rng(SEED)
    known = codes(rng, 2000)
    index = SlicedPdq(ALWAYS, shift=9)
    index.add(known[:1000].tobytes())
    tended(index)
    for row in range(0, 1000, 7):
        index.withdraw(row)
    done, wrong = threading.Event(), []

    def look(offset: int) -> None:
        asked = known[offset:1000:50]
        expected = {(number, row) for number, row in enumerate(range(offset, 1000, 50)) if row % 7}
        while not done.is_set():
            found = index.search(asked.tobytes(), 31)
            pairs = set(zip(found.query.tolist(), found.row.tolist(), strict=True))
            if {pair for pair in pairs if pair[1] < 1000} != expected:
                wrong.append(pairs ^ expected)

    def tend() -> None:
        while not done.is_set():
            index.tend()

    threads = [threading.Thread(target=look, args=(n,)) for n in range(2)] + [threading.Thread(target=tend)]
    for thread in threads:
        thread.start()
    for code in known[1000:]:
        row = index.add(code.tobytes())
        if row % 3 == 0:
            index.withdraw(row)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_adopted_slices_find_what_they_found() -> None:
    """An index of the same codes begins with another one's slices: same hits, nothing due, and it may go on."""
    rng = np.random.default_rng(SEED)
    known = codes(rng, 20_000)
    first, second = SlicedPdq(shift=12), SlicedPdq(shift=12)
    first.add(known.tobytes())
    tended(first)
    second.add(b"".join(first.codes(len(known))))
    second.adopt(first.slices())
    assert len(second.slices()) > 0
    assert second._slices.all[0].rows is not first._slices.all[0].rows
    asked = around(rng, known, 60)
    for radius in RADII[:4]:
        assert second.search(asked, radius).tuples() == first.search(asked, radius).tuples()
    for index in (first, second):
        index.add(known[:9000].tobytes())
        tended(index)
    assert second.search(asked, 31).tuples() == first.search(asked, 31).tuples()


@pytest.mark.parametrize("fault", ["short", "beyond", "unordered", "wide", "outside", "covers", "twice"])
def test_slices_that_lead_elsewhere_are_refused(fault: str) -> None:
    """A search trusts every number in a slice, so none gets there that leads out of memory."""
    index = SlicedPdq()
    index.add(codes(np.random.default_rng(SEED), 20_000).tobytes())
    one = tended(index).slices()[0]
    starts, rows = (np.frombuffer(some, np.uint32).copy() for some in (one.starts, one.rows))
    if fault == "beyond":
        rows[7] = 20_000
    if fault == "unordered":
        starts[5] = 20_001
    changes: dict[str, Any] = {
        "short": {"starts": one.starts[:-4]},
        "wide": {"width": 29},
        "outside": {"first": 250},
        "covers": {"covers": 20_001},
    }
    wrong = one._replace(**changes.get(fault, {"starts": starts.data, "rows": rows.data}))
    with pytest.raises(ValueError, match="slice"):
        index.adopt([one, one] if fault == "twice" else [wrong])
