"""`_linear.c` gives the samples and `_waves.c` what is read off them, with and without faster instructions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashweir.hashing import _linear, _waves
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
    down_edges, down_weights, down = bands(chance, rows)
    across_edges, across_weights, across = bands(chance, width)
    views = np.full((2, 2, 64, 64), np.nan, np.float32)
    _linear.samples(levels, rows, channels, down_edges, down_weights, across_edges, across_weights, views, plain)
    luma = levels @ LUMA if channels == 3 else levels[:, :, 0].astype(np.float64)
    expected = np.einsum("ksr,rx,jmx->smkj", down, luma, across, optimize=True)
    assert np.allclose(views, expected, rtol=1e-5, atol=1e-4)


@given(seed=st.integers(0, 2**32), plain=st.booleans())
@settings(max_examples=60)
def test_turns(seed: int, plain: bool) -> None:
    views = np.random.default_rng(seed).random((2, 2, 64, 64), np.float32) * np.float32(255)
    value, gap, close, least, most, coefficients = _waves.read(views, DCT, 0.0, 1.0, plain)
    ordered = np.sort(DCT @ views[0, 0].astype(np.float64) @ DCT.T, axis=None)
    assert gap == pytest.approx(ordered[128] - ordered[127], abs=0.02)
    assert 0 <= close <= 256
    assert least == most
    assert np.allclose(np.frombuffer(coefficients, np.float32).reshape(16, 16), DCT @ views[0, 0] @ DCT.T, atol=0.02)
    turned = _waves.turned(views, DCT, value, plain)
    assert len(turned) == 8 * 32
    assert turned[:32] == value
    for place in range(8):
        upside_down, mirrored, transposed = place >> 2, place >> 1 & 1, place & 1
        view = views[upside_down, mirrored].astype(np.float64)
        # Samples of a turned picture come last first.
        view = view[:: 1 - 2 * upside_down, :: 1 - 2 * mirrored]
        expected = bits_of(DCT @ (view.T if transposed else view) @ DCT.T)
        assert distance(turned[32 * place : 32 * place + 32], expected) <= 4, place


@given(seed=st.integers(0, 2**32), size=st.sampled_from([1e-3, 1.0, 1e3]), zeros=st.floats(0, 1))
@settings(max_examples=60)
def test_turns_by_signs(seed: int, size: float, zeros: float) -> None:
    """Against the same of numpy, which sorts: the bits, and how sure the least sure of them are."""
    chance = np.random.default_rng(seed)
    given = (chance.normal(0, size, (16, 16)) * (chance.random((16, 16)) >= zeros)).astype(np.float32)
    values, gap, close = _waves.dihedral(given.tobytes(), 0.5)
    gaps, counts = [], []
    odd = np.resize(np.array([-1, 1]), 16)  # waves 1, 3, and so on
    for place in range(8):
        turned = given * (odd[:, np.newaxis] if place & 4 else 1) * (odd if place & 2 else 1)
        expected = turned.T if place & 1 else turned
        assert values[32 * place : 32 * place + 32] == bits_of(expected), place
        median, above = np.sort(turned, axis=None)[127:129]
        gaps.append(np.float32(above) - np.float32(median))
        counts.append(np.count_nonzero(np.abs(turned - median) < 0.5))
    assert gap == pytest.approx(min(gaps))
    assert close == max(counts)


def bits_of(coefficients: npt.NDArray[np.floating]) -> bytes:
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
    samples = np.resize(np.array(levels, np.float32), (64, 64))
    value, gap, close, least, most, _ = _waves.read(samples, DCT, tie, near, plain)
    coefficients = DCT @ samples.astype(np.float64) @ DCT.T
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
    across = bands(chance, 10)[:2]
    beyond, before, crossed = edges.copy(), edges.copy(), edges.copy()
    beyond[-1] += 9
    before[0] -= 9
    crossed[5] = 5, 4
    views = np.empty((2, 2, 64, 64), np.float32)
    for rows, channels, down, other, out in [
        (9, 3, (beyond, weights), across, views),
        (9, 3, (before, weights), across, views),
        (9, 3, (crossed, weights), across, views),
        (9, 3, (edges[1:], weights), across, views),
        (9, 3, (edges, weights[1:]), across, views),
        (9, 3, (edges, weights), (across[0] + 9, across[1]), views),
        (9, 3, (edges, weights), (across[0], across[1][1:]), views),
        (9, 3, (edges, weights), across, views[1:]),
        (9, 2, (edges, weights), across, views),
        (7, 3, (edges, weights), across, views),
        (0, 3, (edges, weights), across, views),
        (-9, 3, (edges, weights), across, views),
    ]:
        with pytest.raises(ValueError, match="fit"):
            _linear.samples(levels, rows, channels, *down, *other, out)
    for some, waves in [(views[:0], DCT), (views.ravel()[1:], DCT), (views, DCT[1:])]:
        with pytest.raises(ValueError, match="fit"):
            _waves.read(some, waves, 0.0, 1.0)
    for some, waves, value in [(views[1:], DCT, bytes(32)), (views, DCT[1:], bytes(32)), (views, DCT, bytes(31))]:
        with pytest.raises(ValueError, match="fit"):
            _waves.turned(some, waves, value)
    for size in (0, 1023, 1028):
        with pytest.raises(ValueError, match="fit"):
            _waves.dihedral(bytes(size), 0.2)
