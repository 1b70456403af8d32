"""Varied pictures, seeded: what people upload, and what makes hashes fragile.

Most are crops of scikit-image's bundled photos at a wanted size, some with text, noise or a letterbox; every eighth
is a flat or symmetric graphic, whose coefficients are mostly zero, so that a perceptual hash of it is rounding noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFile

from hashweir.model import Turn
from tests.pictures import photo, photos

GRAPHICS: Final = ("flat", "halves", "gradient", "stripes", "checkerboard", "disc", "frame", "mirrored")
_TOO_SMALL: Final = 64
"""Bundled pictures with a side under this are test patterns rather than photos."""

DIHEDRAL: Final[tuple[Turn, ...]] = (
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip-top-bottom",
    "flip-left-right",
    "transpose",
    "transverse",
)
"""Turns in the order of `pdqhash.compute_dihedral`, after the picture as it is: its flip X is upside down, its
flips +1 and -1 are along the two diagonals."""

Pixels = npt.NDArray[np.uint8]


@cache
def _photo(name: str) -> Image.Image:
    return photo(name)


@cache
def _names() -> tuple[str, ...]:
    return tuple(name for name in photos() if min(_photo(name).size) >= _TOO_SMALL)


def picture(seed: int, width: int, height: int, *, graphic: bool | None = None) -> Image.Image:
    """One RGB picture of this size. `graphic` tells photo or graphic; None leaves it to the seed."""
    chance = random.Random(seed)
    drawn = chance.random() < 1 / 8
    if drawn if graphic is None else graphic:
        return _graphic(chance, width, height)
    image = _crop(chance, width, height)
    match chance.randrange(6):
        case 0:
            _write(chance, image)
        case 1:
            image = _noisy(chance, image)
        case 2:
            _letterbox(chance, image)
    return image


def jpeg(seed: int, image: Image.Image, quality: int | None = None) -> bytes:
    """The picture as a JPEG of quality 30 to 95, every fourth progressive, with one of three subsamplings."""
    chance = random.Random(seed)
    file = BytesIO()
    quality, progressive = quality or chance.randint(30, 95), chance.random() < 1 / 4
    # Pillow writes a progressive file in one go, into a buffer that noise at a high quality would overrun.
    block = ImageFile.MAXBLOCK
    ImageFile.MAXBLOCK = max(block, 4 * image.width * image.height)
    try:
        image.save(file, "JPEG", quality=quality, progressive=progressive, subsampling=chance.choice((0, 1, 2, 2, 2)))
    finally:
        ImageFile.MAXBLOCK = block
    return file.getvalue()


def sizes(seed: int, count: int, least: int, most: int) -> Iterator[tuple[int, int]]:
    """Widths and heights, spread evenly over the orders of magnitude, of a ratio of at most 5 where they can be."""
    chance = random.Random(seed)
    for _ in range(count):
        width = round(least * (most / least) ** chance.random())
        height = round(width * 5 ** chance.uniform(-1, 1))
        yield width, min(max(height, least), most)


def pixels(image: Image.Image) -> Pixels:
    """Height x width x 3 of uint8."""
    return np.asarray(image.convert("RGB"))


def _crop(chance: random.Random, width: int, height: int) -> Image.Image:
    image = _photo(chance.choice(_names()))
    share = chance.uniform(0.3, 1)
    w, h = max(int(image.width * share), 1), max(int(image.height * share), 1)
    x, y = chance.randint(0, image.width - w), chance.randint(0, image.height - h)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))


def _write(chance: random.Random, image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    size = max(min(image.size) // chance.randint(6, 20), 6)
    at = chance.randint(0, image.width // 2), chance.randint(0, max(image.height - size, 0))
    draw.text(at, "when the moment comes", fill=_colour(chance), font_size=size)


def _noisy(chance: random.Random, image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(chance.getrandbits(32))
    spread = chance.randint(2, 40)
    levels = np.asarray(image, np.int16)
    levels = levels + noise.integers(-spread, spread + 1, levels.shape, np.int16)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _letterbox(chance: random.Random, image: Image.Image) -> None:
    bar = image.height // chance.randint(5, 12)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, bar), fill="black")
    draw.rectangle((0, image.height - bar, image.width, image.height), fill="black")


def _graphic(chance: random.Random, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), _colour(chance))
    draw = ImageDraw.Draw(image)
    step = max(min(width, height) // chance.choice((2, 3, 4, 8, 16)), 1)
    match chance.choice(GRAPHICS):
        case "flat":
            pass
        case "halves":
            draw.rectangle((0, 0, width // 2, height), fill=_colour(chance))
        case "gradient":
            image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        case "stripes":
            for y in range(0, height, 2 * step):
                draw.rectangle((0, y, width, y + step - 1), fill="white")
        case "checkerboard":
            for row, y in enumerate(range(0, height, step)):
                for x in range(row % 2 * step, width, 2 * step):
                    draw.rectangle((x, y, x + step - 1, y + step - 1), fill="white")
        case "disc":
            draw.ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=_colour(chance))
        case "frame":
            draw.rectangle((0, 0, width - 1, height - 1), outline=_colour(chance), width=max(step // 4, 1))
        case "mirrored":
            half = _crop(chance, max(width // 2, 1), height)
            image.paste(half, (0, 0))
            image.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (width - half.width, 0))
    return image


def _colour(chance: random.Random) -> tuple[int, int, int]:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)
