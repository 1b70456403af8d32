"""`_linear.c` gives the products and what is read off them, with and without the processor's faster instructions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashweir.hashing import _linear
from hashweir.hashing.pdq import DCT

Floats = npt.NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114])


def bands(chance: np.random.Generator, rows: int) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Edges and weights as the products take them, some bands of no row, and the same as a 64 x 2 x rows matrix."""
    edges = np.sort(chance.integers(0, rows + 1, (64, 2)), axis=1)
    matrix = np.zeros((64, 2, rows), np.float32)
    weights = []
    for k, (start, stop) in enumerate(edges):
        band = chance.random((2, stop - start), np.float32) / np.float32(max(stop - start, 1))
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
@settings(max_examples=60)
def test_products(rows: int, width: int, channels: int, seed: int, plain: bool) -> None:
    chance = np.random.default_rng(seed)
    levels = chance.integers(0, 256, (rows, width, channels), np.uint8)
    edges, weights, matrix = bands(chance, rows)
    strips = np.full((width, 2, 64), np.nan, np.float32)
    _linear.down(levels, rows, channels, edges, weights, strips, plain)
    luma = levels @ LUMA if channels == 3 else levels[:, :, 0].astype(np.float64)
    assert np.allclose(strips, np.einsum("ksr,rx->xsk", matrix, luma), rtol=1e-5, atol=1e-4)

    edges, weights, matrix = bands(chance, width)
    samples = np.full((64, 64), np.nan, np.float32)
    value, gap, close, least, most = _linear.across(strips, edges, weights, DCT, samples, 0.0, 1.0, plain)
    views = np.einsum("jmx,xsk->smkj", matrix.astype(np.float64), strips.astype(np.float64))
    assert np.allclose(samples.T, views[0, 0], rtol=1e-4, atol=1e-3)
    coefficients = DCT @ samples.T.astype(np.float64) @ DCT.T
    ordered = np.sort(coefficients, axis=None)
    assert gap == pytest.approx(ordered[128] - ordered[127], rel=1e-3, abs=0.05)
    assert 0 <= close <= 256
    assert least == most
    turned = _linear.turned(strips, edges, weights, DCT, plain)
    assert len(turned) == 8 * 32
    assert distance(turned[:32], value) <= 4
    for place in range(8):
        upside_down, mirrored, transposed = place >> 2, place >> 1 & 1, place & 1
        view = views[upside_down, mirrored]
        # Samples of a mirrored picture come last first.
        view = view[:: 1 - 2 * upside_down, :: 1 - 2 * mirrored]
        expected = bits_of(DCT @ (view.T if transposed else view) @ DCT.T)
        assert distance(turned[32 * place : 32 * place + 32], expected) <= 4, place


def bits_of(coefficients: npt.NDArray[np.float64]) -> bytes:
    flat = coefficients.ravel()[::-1]
    return np.packbits(flat > np.sort(flat)[127]).tobytes()


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


@given(
    levels=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=64),
    tie=st.sampled_from([0.0, 5e-4, 0.3]),
    near=st.floats(0, 500, width=32),
    plain=st.booleans(),
)
def test_what_is_read_off(levels: list[float], tie: float, near: float, plain: bool) -> None:
    """Against the same of numpy, where each sample is one pixel."""
    strips = np.resize(np.array(levels, np.float32), (64, 2, 64))
    edges = np.stack([np.arange(64), np.arange(1, 65)], axis=1)
    samples = np.empty((64, 64), np.float32)
    read = _linear.across(strips, edges, np.ones(128, np.float32), DCT, samples, tie, near, plain)
    value, gap, close, least, most = read
    assert (samples == strips[:, 0]).all()
    coefficients = DCT @ samples.T.astype(np.float64) @ DCT.T
    median, above = np.sort(coefficients, axis=None)[127:129]
    off = 2e-2  # what single precision may be off
    assert gap == pytest.approx(above - median, abs=off)
    near_ones = np.abs(coefficients - median)
    assert np.count_nonzero(near_ones < near - off) <= close <= np.count_nonzero(near_ones < near + off)
    certain = near_ones > off
    bits = np.unpackbits(np.frombuffer(value, np.uint8))[::-1].reshape(16, 16).astype(bool)
    assert (bits == (coefficients > median))[certain].all()
    steps = np.concatenate([np.abs(np.diff(samples, axis=axis)).ravel() for axis in (0, 1)]) * np.float32(100 / 255)
    assert [least, most] == [
        min(100, int(np.trunc(steps + np.float32(one)).astype(int).sum()) // 90) for one in (-tie, tie)
    ]


def test_sizes_that_do_not_fit_are_refused() -> None:
    chance = np.random.default_rng(1)
    levels = chance.integers(0, 256, (9, 10, 3), np.uint8)
    edges, weights, _ = bands(chance, 9)
    beyond, before, crossed = edges.copy(), edges.copy(), edges.copy()
    beyond[-1] += 9
    before[0] -= 9
    crossed[5] = 5, 4
    strips = np.empty((10, 2, 64), np.float32)
    for rows, channels, some, of, out in [
        (9, 3, beyond, weights, strips),
        (9, 3, before, weights, strips),
        (9, 3, crossed, weights, strips),
        (9, 3, edges[1:], weights, strips),
        (9, 3, edges, weights[1:], strips),
        (9, 3, edges, weights, strips[1:]),
        (9, 2, edges, weights, strips),
        (7, 3, edges, weights, strips),
        (0, 3, edges, weights, strips),
        (-9, 3, edges, weights, strips),
    ]:
        with pytest.raises(ValueError, match="fit"):
            _linear.down(levels, rows, channels, some, of, out)
    edges, weights, _ = bands(chance, 10)
    samples = np.empty((64, 64), np.float32)
    for strip, of, waves, out in [
        (strips[1:], weights, DCT, samples),
        (strips, weights[1:], DCT, samples),
        (strips, weights, DCT[1:], samples),
        (strips, weights, DCT, samples[1:]),
        (strips[:, 0].copy()[:9], weights, DCT, samples),
    ]:
        with pytest.raises(ValueError, match="fit"):
            _linear.across(strip, edges, of, waves, out, 0.0, 1.0)
        if out is samples:
            with pytest.raises(ValueError, match="fit"):
                _linear.turned(strip, edges, of, waves)
