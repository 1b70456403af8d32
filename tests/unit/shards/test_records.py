"""Packed records against the plain array of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hashweir.shards.records import BLOCK_ROWS, Full, Records

WIDTH = 9


def made(rng: np.random.Generator, count: int, constant: set[int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Records of which some columns are always the same."""
    records = rng.integers(0, 256, (count, WIDTH), np.uint8)
    records[:, sorted(constant)] = 7
    return records


@given(
    seed=st.integers(0, 2**32),
    constant=st.sets(st.integers(0, WIDTH - 1)),
    sizes=st.lists(st.sampled_from([1, 5, 1023, BLOCK_ROWS, 2 * BLOCK_ROWS + 3]), max_size=6),
    start=st.integers(0, WIDTH - 1),
    data=st.data(),
)
def test_what_was_appended_is_read(
    seed: int, constant: set[int], sizes: list[int], start: int, data: st.DataObject
) -> None:
    """Whatever repeats, whatever rows are asked in whatever order, whole or in part."""
    rng, records, plain = np.random.default_rng(seed), Records(WIDTH), np.zeros((0, WIDTH), np.uint8)
    for size in sizes:
        some = made(rng, size, constant)
        records.append(some)
        plain = np.concatenate([plain, some])
    assert len(records) == len(plain)
    rows = rng.integers(0, len(plain), 200 if len(plain) else 0)
    assert np.array_equal(records.take(rows), plain[rows])
    below = data.draw(st.integers(0, len(plain)))
    end = data.draw(st.integers(start, WIDTH))
    read = np.zeros((0, end - start), np.uint8)
    for first, column in records.columns(start, end, below):
        assert first == len(read)
        read = np.concatenate([read, column])
    assert np.array_equal(read, plain[:below, start:end])


def test_what_repeats_is_kept_once() -> None:
    """A full block takes as many bytes as it has columns that differ, and one row more."""
    records = Records(WIDTH)
    records.append(made(np.random.default_rng(1), BLOCK_ROWS, {0, 1, 4, 8}))
    (block,) = records._blocks
    assert isinstance(block, Full)
    assert block.same.nbytes + block.varying.nbytes == 5 * BLOCK_ROWS + WIDTH
