"""The flat scans against definitions written out bit by bit, and against the reference TLSH."""

from __future__ import annotations

import random

import pytest
import tlsh
from hypothesis import given
from hypothesis import strategies as st

from hashweir.index.flat import FlatPdq, FlatTlsh

SEED = 20


def hamming(a: bytes, b: bytes) -> int:
    """Bits that differ, the plain way."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def flipped(rng: random.Random, value: bytes, bits: int) -> bytes:
    """The value with exactly so many bits turned over."""
    mask = sum(1 << bit for bit in rng.sample(range(len(value) * 8), bits))
    return (int.from_bytes(value, "big") ^ mask).to_bytes(len(value), "big")


@pytest.mark.parametrize("radius", [0, 10, 31, 32, 40, 64])
def test_pdq_edges_of_a_radius(radius: int) -> None:
    """A code at the radius is found and one bit further is not, with random codes and tombstones around them."""
    rng = random.Random(SEED + radius)
    index, codes = FlatPdq(), []
    query = rng.randbytes(32)
    for bits in range(70):
        codes += [flipped(rng, query, bits), rng.randbytes(32)]
    index.add(b"".join(codes))
    withdrawn = set(rng.sample(range(len(codes)), 20))
    for row in withdrawn:
        index.withdraw(row)
    queries = [query, flipped(rng, query, 5)]
    expected = [
        (number, row, hamming(asked, code))
        for number, asked in enumerate(queries)
        for row, code in enumerate(codes)
        if row not in withdrawn and hamming(asked, code) <= radius
    ]
    assert index.search(b"".join(queries), radius).tuples() == expected


def test_blocks_of_rows_and_of_queries_meet_without_a_seam() -> None:
    """More rows than one block holds, and more queries than are asked at once."""
    rng = random.Random(SEED)
    index = FlatPdq()
    rows = (1 << 16) + 10
    index.add(rng.randbytes(32 * rows))
    planted = {}
    for number in range(40):
        code = rng.randbytes(32)
        planted[number] = (code, index.add(code))
    few = FlatPdq()
    few.add(b"".join(code for code, _ in planted.values()))
    queries = b"".join(code for code, _ in planted.values())
    assert index.search(queries, 10).tuples() == [(number, row, 0) for number, (_, row) in planted.items()]
    assert few.search(queries * 100, 10).tuples() == [(number, number % 40, 0) for number in range(4000)]


def test_the_farthest_codes() -> None:
    """Distances of 256 (PDQ) and of all buckets at their farthest (TLSH) do not overflow."""
    pdq, lsh = FlatPdq(), FlatTlsh()
    pdq.add(b"\xff" * 32)
    lsh.add(bytes([9, 9, 0x08]) + b"\xff" * 32)
    assert pdq.search(bytes(32), 256).tuples() == [(0, 0, 256)]
    assert pdq.search(bytes(32), 255).tuples() == []
    asked = bytes(35)
    expected = tlsh.diffxlen("T1" + asked.hex(), "T1" + (bytes([9, 9, 0x08]) + b"\xff" * 32).hex())
    assert lsh.search(asked, 2000).tuples() == [(0, 0, expected)]
    assert expected == 128 * 6 + 1 + 12 * 7


@given(
    first=st.binary(min_size=35, max_size=35),
    edits=st.lists(st.tuples(st.integers(0, 34), st.integers(0, 255)), max_size=35),
    radius=st.integers(0, 400),
)
def test_tlsh_is_the_reference_distance(first: bytes, edits: list[tuple[int, int]], radius: int) -> None:
    """For any two values, `diffxlen` of the reference, found exactly when it is within the radius."""
    second = bytearray(first)
    for place, octet in edits:
        second[place] = octet
    index = FlatTlsh()
    index.add(first)
    expected = tlsh.diffxlen("T1" + first.hex().upper(), "T1" + bytes(second).hex().upper())
    assert index.search(bytes(second), radius).tuples() == ([(0, 0, expected)] if expected <= radius else [])


def test_tlsh_of_real_texts() -> None:
    """Values as the reference makes them of texts and of edited copies."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=300)) for _ in range(30)]
    texts += [text.replace(words[0], words[1]).replace(words[2], "") for text in texts]
    values = [tlsh.hash(text.encode()) for text in texts]
    index = FlatTlsh()
    index.add(b"".join(bytes.fromhex(value[2:]) for value in values))
    for value in values:
        expected = [(0, row, tlsh.diffxlen(value, other)) for row, other in enumerate(values)]
        assert index.search(bytes.fromhex(value[2:]), 5000).tuples() == expected
