"""`_strips.c` multiplies with banded matrices, with and without the processor's faster instructions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashweir.hashing import _strips

Floats = npt.NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def bands(chance: np.random.Generator, rows: int) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Edges and weights as the products take them, some bands of no row, and the same as a 64 x 2 x rows matrix."""
    edges = np.sort(chance.integers(0, rows + 1, (64, 2)), axis=1)
    matrix = np.zeros((64, 2, rows), np.float32)
    weights = []
    for k, (start, stop) in enumerate(edges):
        band = chance.random((2, stop - start), np.float32)
        matrix[k, :, start:stop] = band
        weights.append(band.ravel())
    return edges, np.concatenate(weights), matrix


@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 2200),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32),
    plain=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_products(rows: int, width: int, channels: int, seed: int, plain: bool) -> None:
    chance = np.random.default_rng(seed)
    levels = chance.integers(0, 256, (rows, width, channels), np.uint8)
    edges, weights, matrix = bands(chance, rows)
    strips = np.full((width, 2, 64), np.nan, np.float32)
    _strips.down(levels, rows, channels, edges, weights, LUMA, strips, plain)
    luma = levels @ LUMA.astype(np.float64) if channels == 3 else levels[:, :, 0].astype(np.float64)
    assert np.allclose(strips, np.einsum("ksr,rx->xsk", matrix, luma), rtol=1e-5, atol=1e-4)

    edges, weights, matrix = bands(chance, width)
    samples, views = np.full((64, 64), np.nan, np.float32), np.full((64, 2, 2, 64), np.nan, np.float32)
    _strips.across(strips, edges, weights, samples, False, plain)
    _strips.across(strips, edges, weights, views, True, plain)
    expected = np.einsum("jmx,xsk->jmsk", matrix.astype(np.float64), strips.astype(np.float64))
    assert np.allclose(views, expected, rtol=1e-4, atol=1e-3)
    assert np.allclose(samples, expected[:, 0, 0], rtol=1e-4, atol=1e-3)


def test_sizes_that_do_not_fit_are_refused() -> None:
    chance = np.random.default_rng(1)
    levels = chance.integers(0, 256, (9, 10, 3), np.uint8)
    edges, weights, _ = bands(chance, 9)
    beyond, before, crossed = edges.copy(), edges.copy(), edges.copy()
    beyond[-1] += 9
    before[0] -= 9
    crossed[5] = 5, 4
    strips = np.empty((10, 2, 64), np.float32)
    for rows, channels, some, of, luma, out in [
        (9, 3, beyond, weights, LUMA, strips),
        (9, 3, before, weights, LUMA, strips),
        (9, 3, crossed, weights, LUMA, strips),
        (9, 3, edges[1:], weights, LUMA, strips),
        (9, 3, edges, weights[1:], LUMA, strips),
        (9, 3, edges, weights, LUMA[:2], strips),
        (9, 3, edges, weights, LUMA, strips[1:]),
        (9, 2, edges, weights, LUMA, strips),
        (7, 3, edges, weights, LUMA, strips),
        (0, 3, edges, weights, LUMA, strips),
        (-9, 3, edges, weights, LUMA, strips),
    ]:
        with pytest.raises(ValueError, match="fit"):
            _strips.down(levels, rows, channels, some, of, luma, out)
    for turning, some, out in [(True, edges, np.empty((64, 64), np.float32)), (False, beyond, strips)]:
        with pytest.raises(ValueError, match="fit"):
            _strips.across(strips, some, weights, out, turning)
