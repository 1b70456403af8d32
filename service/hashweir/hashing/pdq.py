"""PDQ, a perceptual hash of pictures: 256 bits, compared by Hamming distance.

Source: https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf; the reference is `pdqhash`.

The reference blurs the luma with two box filters along each axis, takes 64 x 64 samples of it, and keeps the sign
of 16 x 16 coefficients of its cosine transform, each against their median. Blurring and sampling are linear and treat
each axis by itself, so they are one matrix per axis that depends on the side's length only: `A = M_h luma M_w'`, and
the coefficients are `D A D'`. A sample depends on no more than twice the window, so `M` is a narrow band and almost
every pixel is used once. `decisions/0005-pdq-as-a-linear-map.md` derives it and has the measurements; `M` is made
here, `_linear.c` multiplies, and `_waves.c` transforms.

The reference adds up in float32 while it slides its windows, so its coefficients differ from these in the last digits.
The bits can only differ where the 128th and the 129th coefficient lie that near each other; there, and in small
pictures, `_reference.c` adds up as the reference does.

A mirrored picture has the same matrix with its columns in reverse, and windows and samples of both lie in the same
strips of pixels; so all eight turns cost hardly more than the picture as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hashweir.hashing import _linear, _reference, _waves
from hashweir.hashing.spelling import from_hex, to_hex
from hashweir.model import Kind, Turn

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

RECIPE: Final = "pdq/canonical/1"
"""RGB-correct pixels, full size, no EXIF rotation, alpha dropped, first frame."""
TIE: Final = 0.003
"""Gap of the 128th and 129th coefficient below which the reference decides: twice the farthest that it was seen to
move two coefficients beside the median towards each other (0.0015)."""
FLAT_TIE: Final = 0.0135
FLAT_MOST: Final = 32
"""The same (0.0066) where this many coefficients lie within `CLOSE` of the median: over flat areas the reference rounds
every sum the same way, and its errors add up."""
QUALITY_TIE: Final = 5e-4
"""A step of brightness (in per cent of the range) this near a whole number may be either, for at those quality rounds.
Ten times what it took for the sum of all steps to be within its bounds. One step may be off by more (0.0016)."""
SMALL: Final = 2**16
"""Pixels of a picture up to which the reference's sums are as quick as the linear map (measured), and need no bands."""
LEAST_SIDE: Final = 5
"""Pixels a side; less has the all-zero hash, as in the reference."""
CLOSE: Final = 0.2
CLOSE_MOST: Final = 8
"""A fast hash is given up where this many coefficients lie this near the median: they would be rounding noise."""

_WAVES = np.outer(np.arange(1, 17), 2 * np.arange(64) + 1)
DCT: Final = (np.sqrt(2 / 64) * np.cos(np.pi / 128 * _WAVES)).astype(np.float32)
"""16 x 64: waves 1 to 16 of the 64-point cosine transform (type II, orthonormal). The constant wave 0 is left out."""
_TURNED: Final[dict[Turn, int]] = {
    "transpose": 1,
    "flip-left-right": 2,
    "rotate-90": 3,
    "flip-top-bottom": 4,
    "rotate-270": 5,
    "rotate-180": 6,
    "transverse": 7,
}
"""Which of the eight views: 4 for upside down, 2 for mirrored from left to right, 1 for transposed after that."""


class Pdq:
    """Text, byte form and distance of PDQ values.

    64 hex digits, most significant bit (the last coefficient) first.
    """

    kind: Kind = "pdq"
    width = 32

    def parse(self, text: str) -> bytes:
        """Bytes of 64 hex digits of either case. Raises InputError(bad_value)."""
        return from_hex(self.kind, text, self.width)

    def show(self, value: bytes) -> str:
        """64 lower-case hex digits."""
        return to_hex(self.kind, value, self.width)

    def distance(self, a: bytes, b: bytes) -> int:
        """Hamming distance, 0 to 256."""
        return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


class Bands(NamedTuple):
    """64 bands: `edges`, 64 x 2, are the first pixel of each and the one after its last; `weights` follow each other.

    Each has 2 x (stop - start): the first row makes sample k of the picture, the second makes sample 63 - k of the
    mirrored one.
    """

    edges: npt.NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True, slots=True)
class Sampled:
    """A picture sampled, and its hash: (32 bytes, quality 0 to 100)."""

    value: bytes
    quality: int
    by_reference: bool = False
    """Whether the reference's own rounding had to decide."""
    views: Floats | None = None
    """2 (upside down) x 2 (mirrored) x 64 x 64: samples of the picture as it is and turned, those last first. None: a
    side under 5."""
    coefficients: bytes | None = None
    """16 x 16 of float32, waves 1 to 16. None: a side under 5."""

    def turned(self, turns: Sequence[Turn]) -> list[bytes]:
        """The hash of the picture turned (counter-clockwise) or mirrored, as of the turned pixels, in this order.

        The reference's rounding is not followed here, so pictures that are symmetric or flat may differ from it.
        """
        if self.views is None:
            return [self.value for _ in turns]
        return _of_turns(_waves.turned(self.views, DCT, self.value), turns)


def fingerprint(rgb: Pixels) -> tuple[bytes, int]:
    """PDQ of a picture: (32 bytes, quality 0 to 100), bit for bit what `pdqhash` gives.

    `rgb` is height x width x 3, uint8. Sides under 5 pixels give the all-zero hash with quality 0, as the
    reference does. Raises ValueError for any other shape or type: `pdqhash` would hash bool and int8 wrongly.
    """
    rgb = _checked(rgb)
    if rgb.shape[0] * rgb.shape[1] <= SMALL and min(rgb.shape[:2]) >= LEAST_SIDE:
        return _by_reference(rgb)[:2]
    found = sample(rgb)
    return found.value, found.quality


def fingerprint_frames(frames: Pixels) -> list[tuple[bytes, int]]:
    """PDQ of every picture of n x height x width x 3, uint8, as `fingerprint` gives it. Raises ValueError."""
    if frames.ndim != 4:
        raise ValueError(f"pictures are n x H x W x 3 of uint8, got {frames.shape}")
    return [fingerprint(frame) for frame in frames]


def sample(rgb: Pixels) -> Sampled:
    """A picture, height x width x 3 of uint8, with what its turns are made of. Raises ValueError as `fingerprint`."""
    rgb = _checked(rgb)
    height, width, _ = rgb.shape
    if min(height, width) < LEAST_SIDE:
        return Sampled(bytes(32), 0)
    return _decide(rgb, _sample(rgb, _bands(height), _bands(width)))


def dihedral(rgb: Pixels, sampled: Sampled, turns: Sequence[Turn]) -> list[bytes]:
    """The hashes of turns as `pdqhash.compute_dihedral` makes them, bit for bit.

    It changes signs of the one picture's coefficients, and that can lie far from the turned picture's hash (decision
    0005): not for looking anything up, but for those who exchange hashes with such tools. `sampled` is of `rgb`.
    """
    if sampled.coefficients is None:
        return [sampled.value for _ in turns]
    values, gap, close = _waves.dihedral(sampled.coefficients, CLOSE)
    if _tied(gap, close) and not sampled.by_reference:
        values, _, _ = _waves.dihedral(_reference.coefficients(rgb)[0], CLOSE)
    return _of_turns(values, turns)


def sample_scaled(grey: Pixels, height: int, width: int, factor: int) -> Sampled | None:
    """The same from luma of which every pixel is the mean of a block of `factor` x `factor` of the full picture.

    `grey` is ceil(height / factor) x ceil(width / factor), uint8: what a JPEG decoder gives without decoding all
    frequencies. The weights are added up over each block, so the kernel stays that of the full size. Not identical:
    luma was rounded, and a pixel counts like its block. None where so many coefficients lie beside the median that
    the hash would be noise, and for sides under 5. Raises ValueError for another shape.
    """
    expected = -(-height // factor), -(-width // factor)
    if grey.shape != expected or grey.dtype != np.uint8:
        raise ValueError(f"luma is {expected} of uint8, got {grey.shape} of {grey.dtype}")
    if min(height, width) < LEAST_SIDE:
        return None
    views = _sample(np.ascontiguousarray(grey), _bands(height, factor), _bands(width, factor))
    value, _, close, quality, _, coefficients = _waves.read(views, DCT, 0, CLOSE)
    return None if close >= CLOSE_MOST else Sampled(value, quality, False, views, coefficients)


def nearest_512(rgb: Pixels) -> Pixels:
    """The picture as the reference's C++ tool squashes it: 512 x 512 by nearest neighbour if a side is longer.

    CImg takes pixel floor(i * side / 512) along each axis. Smaller pictures come back as they are.
    """
    height, width, _ = rgb.shape
    if max(height, width) <= 512:
        return rgb
    steps = np.arange(512)
    return rgb[np.ix_(steps * height // 512, steps * width // 512)]


def _checked(rgb: Pixels) -> Pixels:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a picture is H x W x 3 of uint8, got {rgb.shape} of {rgb.dtype}")
    return np.ascontiguousarray(rgb)


def _by_reference(rgb: Pixels) -> tuple[bytes, int, bytes]:
    coefficients, quality = _reference.coefficients(rgb)
    flat = np.frombuffer(coefficients, np.float32)[::-1]
    return np.packbits(flat > np.partition(flat, 127)[127]).tobytes(), quality, coefficients


def _of_turns(values: bytes, turns: Sequence[Turn]) -> list[bytes]:
    return [values[32 * place : 32 * place + 32] for place in map(_TURNED.__getitem__, turns)]


def _tied(gap: float, close: int) -> bool:
    return gap < (FLAT_TIE if close >= FLAT_MOST else TIE)


@lru_cache(maxsize=256)
def _bands(side: int, factor: int = 1) -> Bands:
    """`M` for a side of this many pixels, in blocks of `factor`: 64 bands. Takes some 16 bytes per pixel of a side."""
    window = -(-side // 128)
    ahead = (window + 2) // 2
    places = np.arange(side)
    first, end = np.maximum(places - (window - ahead), 0), np.minimum(places + ahead, side)
    count = end - first
    centres = (2 * np.arange(64) + 1) * side // 128
    start, stop = first[first[centres]], end[end[centres] - 1]
    # The second pass averages places whose values the first pass averaged. Each of those adds a constant to a stretch
    # of weights; so its ends are marked, and the marks added up.
    inner = first[centres, np.newaxis] + np.arange(window)
    used = inner < end[centres, np.newaxis]
    inner = np.minimum(inner, side - 1)
    share = used / (count[inner] * count[centres, np.newaxis])
    marks = np.zeros((64, 2 * window + 1))
    rows = np.arange(64)[:, np.newaxis]
    np.add.at(marks, (rows, np.where(used, first[inner] - start[:, np.newaxis], 0)), share)
    np.add.at(marks, (rows, np.where(used, end[inner] - start[:, np.newaxis], 0)), -share)
    weights = marks.cumsum(axis=1)
    edges, bands = np.empty((64, 2), np.int64), []
    for k in range(64):
        mirror = side - int(stop[63 - k])  # where the window of sample 63 - k begins in the mirrored picture
        size, other = int(stop[k] - start[k]), int(stop[63 - k] - start[63 - k])
        low, high = min(int(start[k]), mirror) // factor, -(-max(int(stop[k]), mirror + other) // factor)
        pair = np.zeros((2, (high - low) * factor))
        at, mirrored_at = int(start[k]) - low * factor, mirror - low * factor
        pair[0, at : at + size] = weights[k, :size]
        pair[1, mirrored_at : mirrored_at + other] = weights[63 - k, :other][::-1]
        edges[k] = low, high
        bands.append(pair.reshape(-1, factor).sum(axis=1) if factor > 1 else pair.ravel())
    return Bands(edges, np.concatenate(bands).astype(np.float32))


def _sample(levels: Pixels, down: Bands, across: Bands) -> Floats:
    """`M_h luma M_w'` of `levels` (rows x columns, or rows x columns x RGB), as `Sampled.views`."""
    samples = np.empty((2, 2, 64, 64), np.float32)
    rows, columns = levels.shape[:2]
    _linear.samples(levels, rows, levels.size // (rows * columns), *down, *across, samples)
    return samples


def _decide(rgb: Pixels, views: Floats) -> Sampled:
    """The hash of samples, or of the pixels where the reference's rounding decides."""
    value, gap, close, least, most, coefficients = _waves.read(views, DCT, QUALITY_TIE, CLOSE)
    if _tied(gap, close) or least != most:
        value, quality, coefficients = _by_reference(rgb)
        return Sampled(value, quality, True, views, coefficients)
    return Sampled(value, least, False, views, coefficients)
