"""What every index promises, for every kind of the table, against `HASHERS[kind].distance` as the oracle."""

from __future__ import annotations

import threading
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import HASHERS
from hashweir.index import INDEXES
from hashweir.model import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)


def test_every_kind_has_an_index() -> None:
    """A kind that can be hashed can be searched."""
    assert INDEXES.keys() == HASHERS.keys()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_search_finds_exactly_what_lies_within_the_radius(kind: Kind, data: st.DataObject) -> None:
    """Whatever is added and withdrawn in whatever order: the oracle's answer, no more, no less."""
    hasher, index = HASHERS[kind], INDEXES[kind]()
    value = st.binary(min_size=hasher.width, max_size=hasher.width)
    pool = data.draw(st.lists(value, min_size=1, max_size=6))
    alive: dict[int, bytes] = {}
    ever: dict[int, bytes] = {}
    rows = 0
    for step in data.draw(st.lists(st.sampled_from(["add", "many", "withdraw"]), max_size=20)):
        if step == "withdraw":
            if rows:
                gone = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=4))
                index.withdraw(gone[0] if len(gone) == 1 else np.array(gone))
                for row in gone:
                    alive.pop(row, None)
        else:
            added = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=1 if step == "add" else 5))
            assert index.add(b"".join(added)) == rows
            alive |= dict(enumerate(added, rows))
            ever |= dict(enumerate(added, rows))
            rows += len(added)
    assert len(index) == len(alive)
    queries = data.draw(st.lists(st.one_of(st.sampled_from(pool), value), max_size=4))
    radius = data.draw(st.sampled_from([0, 1, 31, 60, 128, 1000]))
    expected = [
        (number, row, hasher.distance(query, known))
        for number, query in enumerate(queries)
        for row, known in alive.items()
        if hasher.distance(query, known) <= (radius if kind in ("pdq", "tlsh") else 0)
    ]
    assert index.search(b"".join(queries), radius).tuples() == sorted(expected)
    assert index.values(np.array(sorted(ever), np.int64)).tobytes() == b"".join(ever.values())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_never_added_and_odd_lengths_are_refused(kind: Kind) -> None:
    """A caller's mistake is an error, not a wrong answer."""
    index, width = INDEXES[kind](), HASHERS[kind].width
    index.add(bytes(width))
    for row in (-1, 1):
        with pytest.raises(IndexError):
            index.withdraw(row)
    with pytest.raises(ValueError, match="bytes"):
        index.add(bytes(width + 1))
    with pytest.raises(ValueError, match="bytes"):
        index.search(bytes(width - 1), 31)
    for row in (-1, 1):
        with pytest.raises(IndexError):
            index.values(np.array([row]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_in_a_thread_overlaps_growth(kind: Kind) -> None:
    """What was there before a search began is found, however much is added and withdrawn meanwhile."""
    index, width = INDEXES[kind](), HASHERS[kind].width
    wanted = b"\xff" * width
    index.add(wanted)
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if (0, 0, 0) not in (found := index.search(wanted, 0).tuples()):
                wrong.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(3000):
        row = index.add(number.to_bytes(width, "big"))
        if number % 3 == 0:
            index.withdraw(row)
    done.set()
    thread.join()
    assert wrong == []
    assert len(index) == 2001
