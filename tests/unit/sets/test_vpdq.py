"""Laws of vPDQ's forms: read as entries of one item, written back the same, and no line that stops the others."""

from __future__ import annotations

import json
import random
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.sets.read import Line, Rejection, Row
from hashweir.sets.vpdq import VpdqReader, show_vpdq

HEX = [random.Random(number).randbytes(32).hex() for number in range(6)]


def read(content: bytes) -> list[tuple[int, Row | Rejection]]:
    return list(VpdqReader(BytesIO(content), "clip"))


def test_both_forms_are_the_same_rows() -> None:
    """JSON as python-threatexchange keeps it, and lines as the vpdq tool writes them."""
    as_json = json.dumps([f"{HEX[0]},100,0", f"{HEX[1]},77,1.001"]).encode()
    as_text = f"0,100,{HEX[0]},0.000\n29,77,{HEX[1].upper()},1.001\n".encode()
    wanted = [
        (1, Row(kind="pdq", value=HEX[0], item="clip", quality=100, length=0)),
        (2, Row(kind="pdq", value=HEX[1], item="clip", quality=77, length=1001)),
    ]
    assert read(as_json) == read(as_text) == wanted


def test_repeats_and_poor_frames_are_left_out() -> None:
    """vPDQ drops both before it compares; that is told, and is no rejection."""
    reader = VpdqReader(BytesIO(json.dumps([f"{HEX[0]},100,0", f"{HEX[0]},100,1", f"{HEX[1]},49,2"]).encode()), "clip")
    assert [number for number, _ in reader] == [1]
    assert (reader.lines, reader.left_out) == (3, 2)


def test_large_timestamps_of_three_digits() -> None:
    """`1e+02` is what vPDQ makes of 100 seconds."""
    ((_, row),) = read(json.dumps([f"{HEX[0]},100,1e+02"]).encode())
    assert isinstance(row, Row)
    assert row.length == 100_000


@pytest.mark.parametrize(
    "content",
    [
        b'["abc"]',
        b"[1, 2]",
        b"[" * 100_000,
        b"\xff\xfe",
        f"{HEX[0]},x,0".encode(),
        f"{HEX[0]},90,nan".encode(),
        f"{HEX[0]},90,-1".encode(),
        f"{HEX[0]},90,1e99".encode(),
        b"a,b,c,d,e",
    ],
)
def test_bad_files_are_rejections(content: bytes) -> None:
    """A reason for each, and never an exception."""
    assert [type(row) for _, row in read(content)] == [Rejection]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_reading_never_raises(content: bytes) -> None:
    """Whatever the bytes are."""
    assert all(isinstance(row, Row | Rejection) for _, row in read(content))


@given(
    st.lists(
        st.tuples(st.sampled_from(HEX), st.integers(50, 100), st.integers(0, 7_200_000)), unique_by=lambda one: one[0]
    )
)
def test_round_trip(frames: list[tuple[str, int, int]]) -> None:
    """What is written is read back, to the millisecond."""
    lines = [Line(kind="pdq", value=value, quality=quality, length=at) for value, quality, at in frames]
    rows = [row for _, row in read(show_vpdq(lines))]
    told = {(row.value, row.quality, row.length) for row in rows if isinstance(row, Row)}
    assert told == set(frames)


def test_export_leaves_out_what_is_no_active_frame() -> None:
    """Tombstones and other kinds are not the video's frames."""
    lines = [
        Line(kind="pdq", value=HEX[0], state="retired"),
        Line(kind="sha256", value=HEX[1]),
        Line(kind="pdq", value=HEX[2]),
    ]
    assert json.loads(show_vpdq(lines)) == [f"{HEX[2]},100,0"]
