"""Other views of a picture's file than its RGB pixels: small luma, the upright turn, what other tools read.

Runs inside a scan process, on headers that `decode` has judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from hashweir.model import FormGroup, QueryForm, Turn

Pixels = npt.NDArray[np.uint8]

SHORT_SIDE: Final = 512
"""Pixels that a luma decoded small keeps at least. Of pictures of quality 50 and more, 3 % differ by more than
2 bits with 512, 7 % with 256, 26 % with 128."""
FAST_ONLY: Final[frozenset[FormGroup]] = frozenset({"fast", "turns"})
"""Forms that need no colours and no full size."""
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final[Mapping[int, Turn]] = {
    2: "flip-left-right",
    3: "rotate-180",
    4: "flip-top-bottom",
    5: "transpose",
    6: "rotate-270",
    7: "transverse",
    8: "rotate-90",
}
"""EXIF 2.32, tag 0x0112: where the first row and column lie; and the turn that undoes it."""


@dataclass(frozen=True, slots=True)
class Luma:
    """The luma of a JPEG, decoded small: a pixel is the mean of a block of `factor` x `factor`, uint8.

    `height` and `width` are those of the full picture.
    """

    media_type: str
    grey: Pixels
    height: int
    width: int
    factor: int
    upright: Turn | None = None


def small_luma(content: bytes, size: tuple[int, int], upright: Turn | None) -> Luma | None:
    """The luma at the smallest scale of 1/8, 1/4, 1/2 and 1 that leaves `SHORT_SIDE`; None where it can't be had so.

    `size` is width and height, by the header.
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content, strict=True)
        if (width, height) != size or colorspace not in ("YCbCr", "Gray"):
            return None
        factor = next(one for one in (8, 4, 2, 1) if one == 1 or min(height, width) >= one * SHORT_SIDE)
        small = -(-height // factor), -(-width // factor)
        # Exactly this size: for a smaller demand libjpeg-turbo has steps of an eighth, which are no block means.
        grey: Pixels = simplejpeg.decode_jpeg(
            content, "GRAY", fastdct=False, fastupsample=False, min_height=small[0], min_width=small[1], strict=True
        )[:, :, 0]
    except ValueError:
        return None
    return Luma("image/jpeg", grey, height, width, factor, upright) if grey.shape == small else None


def upright(image: Image.Image) -> Turn | None:
    """The turn that makes a picture upright by its EXIF orientation; None where there is none.

    Raises what Pillow raises on broken EXIF data.
    """
    if "exif" not in image.info:
        return None
    return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))


def misread(image: Image.Image) -> tuple[QueryForm, Pixels] | None:
    """What python-threatexchange hashes of this file where that is not its RGB pixels, and what that form is called.

    It gives Pillow's array to pdqhash as it is, whatever the mode, two dimensions made three by repeating.
    """
    match image.mode:
        case "P":
            return "te-palette", np.repeat(np.asarray(image)[:, :, np.newaxis], 3, axis=2)
        case "1":
            return "te-1bit", np.repeat(np.asarray(image).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
        case "CMYK":
            return "te-cmyk", np.ascontiguousarray(np.asarray(image)[:, :, :3])
        case "I;16":
            return "te-16bit", np.asarray(image.convert("RGB"))
    return None
