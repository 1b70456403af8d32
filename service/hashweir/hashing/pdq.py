"""PDQ, a perceptual hash of pictures: 256 bits, compared by Hamming distance.

Source: https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf; the reference is `pdqhash`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pdqhash

from hashweir.hashing.spelling import from_hex, to_hex
from hashweir.model import Kind

RECIPE = "pdq/canonical/1"
"""RGB-correct pixels, full size, no EXIF rotation, alpha dropped, first frame."""


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


def fingerprint(rgb: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """PDQ of a picture: (32 bytes, quality 0 to 100).

    `rgb` is height x width x 3, uint8. Sides under 5 pixels give the all-zero hash with quality 0, as the
    reference does. Raises ValueError for any other shape or type: `pdqhash` would hash bool and int8 wrongly.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a picture is H x W x 3 of uint8, got {rgb.shape} of {rgb.dtype}")
    bits, quality = pdqhash.compute(rgb)
    return np.packbits(bits).tobytes(), int(quality)
