"""Chunk sums in C: those of layout version 1, with and without the processor's own instructions."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.shards._sums import accelerated, chunk_sum, chunk_sum_portable, slot_sums
from hashweir.shards.layout import CHUNK_SLOTS, SIDE_BYTES, SLOT_BYTES, SUM_MODULUS, slot_sum

VECTORS = Path(__file__).parents[2] / "vectors" / "layout.json"
Sum = Callable[[int, bytes, bytes], int]
BOTH = pytest.mark.parametrize("summed", [chunk_sum, chunk_sum_portable])


def by_hashlib(first: int, slots: bytes, sides: bytes) -> int:
    """The definition, spelt out."""
    total = 0
    for n in range(len(slots) // SLOT_BYTES):
        slot, side = slots[n * SLOT_BYTES : (n + 1) * SLOT_BYTES], sides[n * SIDE_BYTES : (n + 1) * SIDE_BYTES]
        total += int(hashlib.sha1((first + n).to_bytes(4, "big") + slot + side).hexdigest()[:13], 16)
    return total % SUM_MODULUS


@BOTH
def test_known_answers(summed: Sum) -> None:
    """The vectors that Python and the server function are held to."""
    for case in json.loads(VECTORS.read_text())["cases"]:
        slot, side = bytes.fromhex(case["slot_image"]), bytes.fromhex(case["side_record"])
        assert summed(case["slot"], slot, side) == case["slot_sum"]


@BOTH
@given(first=st.integers(0, 2**32 - 9), count=st.integers(0, 8), data=st.data())
def test_a_sum_is_its_definition(summed: Sum, first: int, count: int, data: st.DataObject) -> None:
    """Any bytes, any slot number."""
    slots = data.draw(st.binary(min_size=count * SLOT_BYTES, max_size=count * SLOT_BYTES))
    sides = data.draw(st.binary(min_size=count * SIDE_BYTES, max_size=count * SIDE_BYTES))
    assert summed(first, slots, sides) == by_hashlib(first, slots, sides)


@BOTH
@pytest.mark.parametrize(
    ("first", "slots", "sides"),
    [
        (0, 64, 0),
        (0, 0, 40),
        (0, 63, 40),
        (0, 64, 41),
        (0, 128, 40),
        (-1, 64, 40),
        (2**32 - 1, 64, 40),
        (2**64, 64, 40),
    ],
)
def test_what_is_no_chunk_is_refused(summed: Sum, first: int, slots: int, sides: int) -> None:
    """Lengths and numbers are checked before anything is read."""
    with pytest.raises((ValueError, OverflowError)):
        summed(first, bytes(slots), bytes(sides))


@BOTH
def test_only_bytes_are_taken(summed: Sum) -> None:
    """What somebody could change while the lock is released is refused."""
    with pytest.raises(TypeError):
        summed(0, bytearray(64), bytes(40))  # type: ignore[arg-type]


def test_threads_give_what_one_gives() -> None:
    """Full chunks, many at once."""
    slots, sides = os.urandom(CHUNK_SLOTS * SLOT_BYTES), os.urandom(CHUNK_SLOTS * SIDE_BYTES)
    expected, found = by_hashlib(7, slots, sides), list[int]()
    threads = [
        threading.Thread(target=lambda: found.extend(chunk_sum(7, slots, sides) for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80


def test_it_says_what_it_uses() -> None:
    """So that a bench can say what was measured."""
    assert accelerated() in (True, False)


@given(numbers=st.lists(st.integers(0, 2**32 - 1), max_size=5), data=st.data())
def test_shares_of_slots_are_their_definition(numbers: list[int], data: st.DataObject) -> None:
    """Any slots, in any order."""
    slots = data.draw(st.binary(min_size=len(numbers) * SLOT_BYTES, max_size=len(numbers) * SLOT_BYTES))
    sides = data.draw(st.binary(min_size=len(numbers) * SIDE_BYTES, max_size=len(numbers) * SIDE_BYTES))
    found = slot_sums(array("I", numbers).tobytes(), slots, sides)
    assert list(array("Q", found)) == [
        slot_sum(
            number,
            slots[at * SLOT_BYTES : (at + 1) * SLOT_BYTES],
            sides[at * SIDE_BYTES : (at + 1) * SIDE_BYTES],
        )
        for at, number in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("numbers", "slots", "sides"),
    [(4, 64, 0), (4, 0, 40), (3, 64, 40), (8, 64, 40), (4, 65, 40), (4, 64, 80), (0, 64, 40)],
)
def test_shares_of_anything_else_are_refused(numbers: int, slots: int, sides: int) -> None:
    """As many numbers as slots and side records, and all of them whole."""
    with pytest.raises(ValueError, match="as many of each"):
        slot_sums(bytes(numbers), bytes(slots), bytes(sides))
