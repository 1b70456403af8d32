"""The C loops alone: buffers that lie about their contents cost a wrong answer at most."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hashweir.index import _native
from hashweir.index.layouts import masks

ROWS = 700
CODES = np.random.default_rng(3).integers(0, 256, (1024, 32), np.uint8)
SEGMENTS = (CODES[:512].tobytes(), CODES[512:].tobytes())
DEAD = (bytes(512), bytes(512))


def layer(first: int = 0, end: int = ROWS) -> tuple[int, int, int, tuple[_native.Slice, ...]]:
    """Rows in 32 slices of 8 bits."""
    starts, rows = [bytearray(257 * 4) for _ in range(32)], [bytearray((end - first) * 4) for _ in range(32)]
    for number in range(32):
        _native.build(SEGMENTS, 9, first, end, number * 8, 8, starts[number], rows[number])
    ways = tuple((number * 8, 8, 0, masks(8, 0), starts[number], rows[number]) for number in range(32))
    return first, end, 10**6, ways


def search(**other: Any) -> list[list[int]]:
    """A correct call, with some arguments replaced."""
    given: dict[str, Any] = {
        "codes": SEGMENTS, "heads": (), "dead": DEAD, "shift": 9, "rows": ROWS, "layers": (layer(),),
        "queries": CODES[:3].tobytes(), "radius": 31, "measure": _native.HAMMING, "level": 9,
    }  # fmt: skip
    found = _native.search(*(given | other).values())
    return np.frombuffer(found, np.int64).reshape(3, -1).tolist()


@pytest.mark.parametrize("width", [1, 2, 7, 13])
def test_a_slice_holds_every_row_in_its_bucket(width: int) -> None:
    """Wherever the slice lies: a bucket is its bits as a number, and rows ascend within it."""
    words = np.ascontiguousarray(CODES[:ROWS]).view(np.uint64).tolist()
    codes = [sum(word << 64 * place for place, word in enumerate(code)) for code in words]
    starts, rows = bytearray(((1 << width) + 1) * 4), bytearray(ROWS * 4)
    for first in range(256 - width + 1):
        _native.build(SEGMENTS, 9, 0, ROWS, first, width, starts, rows)
        keys = np.array([(code >> first) % (1 << width) for code in codes])
        assert np.frombuffer(rows, np.uint32).tolist() == np.argsort(keys, kind="stable").tolist()
        begins = np.searchsorted(np.sort(keys), np.arange((1 << width) + 1))
        assert np.frombuffer(starts, np.uint32).tolist() == begins.tolist()


def test_a_correct_call_finds_the_codes_themselves() -> None:
    """What the wrong calls below differ from."""
    assert search() == [[0, 1, 2], [0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    "other",
    [
        {"codes": SEGMENTS[:1]},
        {"codes": (SEGMENTS[0], bytes(31))},
        {"codes": (SEGMENTS[0][:-1], SEGMENTS[1])},
        {"codes": (memoryview(bytes(32 * 512 + 1))[1:], SEGMENTS[1])},
        {"dead": (DEAD[0], bytes(10))},
        {"dead": ()},
        {"shift": 8},
        {"shift": 40},
        {"rows": -1},
        {"rows": 2**32},
        {"layers": ((0, ROWS + 1, 9, ()),)},
        {"layers": ((0, -1, 9, ()),)},
        {"layers": ((-1, ROWS, 9, ()),)},
        {"layers": ((1, ROWS, 9, ()),)},
        {"layers": ((0, 5, 9, ()), (4, ROWS, 9, ()))},
        {"layers": ((0, 5, 9, ()), (6, ROWS, 9, ()))},
        {"layers": ((0, ROWS, -1, ()),)},
        {"queries": bytes(33)},
        {"radius": 2**21},
        {"measure": 3},
        {"measure": _native.DIFF},
        {"measure": _native.DIFF, "layers": (), "queries": bytes(35)},
        {"layers": ((0, ROWS, 9, ((0, 0, 0, b"", bytes(8), b""),)),)},
        {"layers": ((0, ROWS, 9, ((0, 29, 0, b"", bytes(8), b""),)),)},
        {"layers": ((0, ROWS, 9, ((250, 7, 0, b"", bytes(4 * 129), b""),)),)},
        {"layers": ((0, 5, 9, ()), (5, ROWS, 9, ((0, 8, 0, b"", bytes(4 * 256), b""),)))},
    ],
)
def test_numbers_and_lengths_that_do_not_fit_are_refused(other: dict[str, Any]) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=r"buffer|number|queries|segments|bits"):
        search(**other)


@pytest.mark.parametrize(
    "fields",
    [
        ("heads", 5),
        ("dead", (None, None)),
        ("layers", 5),
        ("layers", (1,)),
        ("layers", ((0, ROWS),)),
        ("layers", ((0, ROWS, 9, 5),)),
        ("layers", (("0", ROWS, 9, ()),)),
        ("layers", ((0, ROWS, 9, (1,)),)),
        ("layers", ((0, ROWS, 9, ((1, 2),)),)),
    ],
)
def test_wrong_types_are_refused(fields: tuple[str, Any]) -> None:
    """As by any function."""
    with pytest.raises(TypeError):
        search(**{fields[0]: fields[1]})


def test_damaged_slices_are_not_followed_outside() -> None:
    """Rows that do not exist, buckets that end before they begin or beyond the rows, masks of other widths."""
    far = array("I", [2**32 - 1] * 257).tobytes()
    falling = array("I", range(257, 0, -1)).tobytes()
    for starts, rows in ((far, bytes(ROWS * 4)), (falling, far), (array("I", range(257)).tobytes(), far)):
        mask = array("I", [0, 2**32 - 1, 2**31]).tobytes()
        way = (0, 8, 0, mask, starts, rows)
        assert search(layers=((0, ROWS, 10**6, (way,)),)) == [[], [], []]
        assert search(layers=((0, 0, 9, ()), (0, ROWS, 10**6, (way,)))) == [[], [], []]
        found = search(layers=(layer(0, 2), (2, ROWS, 10**6, (way,))))
        assert found == [[0, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize("scanned", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_layers_find_each_row_once(scanned: tuple[int, ...]) -> None:
    """In any number of them, in slices that hold more rows than their layer, and where some are scanned instead."""
    ends = (0, 300, 301, 650)
    layers = []
    for number, (first, end) in enumerate(pairwise(ends)):
        ways = layer(max(0, first - 9), min(ROWS, end + 20))[3]
        layers.append((first, end, 0 if number in scanned else 10**6, ways))
    for count in range(4):
        found = search(layers=tuple(layers[:count]), queries=CODES[:ROWS:7].tobytes())
        assert found == [list(range(100)), list(range(0, ROWS, 7)), [0] * 100]


@pytest.mark.parametrize(
    ("starts", "rows"), [(bytearray(256 * 4), bytearray(ROWS * 4)), (bytearray(257 * 4), bytearray(ROWS * 4 - 1))]
)
def test_a_slice_needs_room(starts: bytearray, rows: bytearray) -> None:
    """For its buckets and its rows."""
    with pytest.raises(ValueError, match="buffer"):
        _native.build(SEGMENTS, 9, 0, ROWS, 0, 8, starts, rows)
    with pytest.raises(BufferError):
        _native.build(SEGMENTS, 9, 0, ROWS, 0, 8, bytes(257 * 4), bytes(ROWS * 4))
