"""The TLSH scan in C against the reference, with and without the length."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tlsh
from hypothesis import given
from hypothesis import strategies as st

from hashweir.index import _native
from hashweir.index.flat import FlatTlsh
from hashweir.index.tlsh import NativeTlsh

SEED = 11


@pytest.mark.parametrize("level", range(_native.LEVEL + 1))
@pytest.mark.parametrize("length_counts", [False, True])
@given(
    first=st.binary(min_size=35, max_size=35),
    edits=st.lists(st.tuples(st.integers(0, 34), st.integers(0, 255)), max_size=35),
    place=st.integers(0, 20),
)
def test_the_distance_is_the_references(
    level: int, length_counts: bool, first: bytes, edits: list[tuple[int, int]], place: int
) -> None:
    """`diff` and `diffxlen` of py-tlsh for any two values, found exactly when within the radius, at every place."""
    second = bytearray(first)
    for at, octet in edits:
        second[at] = octet
    reference = tlsh.diff if length_counts else tlsh.diffxlen
    asked = "T1" + bytes(second).hex().upper()
    values = [random.Random(number).randbytes(35) for number in range(20)]
    values.insert(place, first)
    index = NativeTlsh(length_counts=length_counts, level=level)
    index.add(b"".join(values))
    far = [reference("T1" + value.hex().upper(), asked) for value in values]
    for radius in (far[place] - 1, far[place], 5000):
        expected = [(0, row, one) for row, one in enumerate(far) if one <= radius]
        assert index.search(bytes(second), radius).tuples() == expected


@pytest.mark.parametrize("level", range(_native.LEVEL + 1))
def test_a_large_index_is_the_flat_one(level: int) -> None:
    """Across segments and blocks, with tombstones and many queries; and values come back whole."""
    rng = np.random.default_rng(SEED)
    known = rng.integers(0, 256, (3000, 35), np.uint8)
    known[1::2] = known[::2]
    known[1::2, rng.integers(0, 35)] ^= 3
    flat, index = FlatTlsh(), NativeTlsh(shift=10, level=level)
    for some in (known[:1], known[1:2000], known[2000:]):
        assert flat.add(some.tobytes()) == index.add(some.tobytes())
    for row in range(0, 3000, 7):
        flat.withdraw(row)
        index.withdraw(row)
    asked = known[:70].tobytes()
    for radius in (-1, 0, 30, 100, 450, 3000):
        assert index.search(asked, radius).tuples() == flat.search(asked, radius).tuples()
    assert index.values(np.arange(2999, -1, -1)).tobytes() == known[::-1].tobytes()
    assert len(index) == len(flat)
