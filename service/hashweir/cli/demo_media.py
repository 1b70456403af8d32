"""Synthetic media for the demo: pictures and texts that behave as real ones do, as pure functions of a seed.

Pictures have the 1/f spectrum of natural scenes and solid shapes over it. Texts are running sentences: English
function words with Zipf's frequencies around invented content words, so that no two texts share a topic. Their
lengths (9,000 characters and more) and the share of words that an edit changes (at most 0.8 %) were chosen by
measurement: TLSH is blind to some small edits of short texts, however small the edit is.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

SIZES = ((800, 600), (600, 800), (768, 768), (960, 640), (1024, 576))
FORMATS = ("JPEG", "PNG", "JPEG", "WEBP", "JPEG", "GIF", "JPEG")
"""Mostly JPEG, as uploads are. Seven of them, so that every size comes in every format."""
TEXT_CHARS = (9_000, 13_000)
WORDS_CHANGED = (0.001, 0.003)
_GRID = 192
_ENCODE = {"JPEG": {"quality": 88}, "PNG": {"compress_level": 1}, "WEBP": {"quality": 88, "method": 0}, "GIF": {}}


def _words(row: str) -> tuple[str, ...]:
    return tuple(row.split())


_FUNCTION_WORDS = _words(
    "the of and to in a is that it was for on are as with his they at be this from have or by one had not but what "
    "all were when we there can an your which their said if do will each about how up out them then she many some "
    "so these would other into has more her two him see time could no make than first been its who now people my "
    "made over did down only way find use may long little very after words called just where most know"
)
_ONSETS = _words("b br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh st str t th tr v w y z")
_NUCLEI = _words("a e i o u ai ea ee ou io oa")
_CODAS = ("", "", "", *_words("n r l s t m nd st ck ng rt x ph"))
_ENDINGS = ("", "", "", *_words("ing ed er ly tion s"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One piece of content to upload. `edit` says what was done to an original; None for an original."""

    media_type: str
    content: bytes
    edit: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether this is a text; else it is a picture."""
        return self.media_type == "text/plain"


def picture(seed: int, number: int) -> Sample:
    """The picture of this number: size and file format go round with the number."""
    rng = np.random.default_rng((seed, number))
    image = _scene(rng, SIZES[number % len(SIZES)])
    file_format = FORMATS[number % len(FORMATS)]
    return Sample(f"image/{file_format.lower()}", _encode(image, file_format))


def text(seed: int, number: int) -> Sample:
    """The text of this number, in UTF-8."""
    rng = random.Random(f"{seed}/{number}")
    length = rng.randint(*TEXT_CHARS)
    lexicon = [_word(rng) + rng.choice(_ENDINGS) for _ in range(260)]
    content_weights = [1 / (rank + 2) for rank in range(len(lexicon))]
    function_weights = [1 / (rank + 2.7) for rank in range(len(_FUNCTION_WORDS))]
    sentences: list[str] = []
    written = 0
    while written < length:
        count = rng.randint(6, 20)
        content = rng.choices(lexicon, content_weights, k=count)
        function = rng.choices(_FUNCTION_WORDS, function_weights, k=count)
        words = [f if rng.random() < 0.45 else c for f, c in zip(function, content, strict=True)]
        words[0] = words[0].capitalize()
        if count > 11:
            words[rng.randint(3, count - 4)] += ","
        sentences.append(" ".join(words) + rng.choice("....?!"))
        written += len(sentences[-1]) + 1
    return Sample("text/plain", " ".join(sentences).encode())


def edited(original: Sample, edit: str, seed: int | str) -> Sample:
    """A copy of an original after one of `EDITS`. Raises KeyError for an edit of another media class."""
    if original.is_text:
        changed = _TEXT_EDITS[edit](original.content.decode(), random.Random(seed))
        return Sample(original.media_type, changed.encode(), edit)
    with Image.open(io.BytesIO(original.content)) as opened:
        image = opened.convert("RGB")
    return Sample("image/jpeg", _PICTURE_EDITS[edit](image), edit)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A 1/f random field in related colours, and ten shapes on it."""
    field = _spectrum(rng)
    colours = np.stack([field[0] + 0.4 * field[1], field[0] + 0.3 * field[2], field[0] - 0.4 * field[1]], axis=-1)
    pixels = np.clip(rng.uniform(95, 115) + rng.uniform(34, 42) * colours, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(10):
        _shape(rng, draw, size)
    return image


def _spectrum(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Three square fields with amplitudes falling as frequency^-1.2, each of unit variance."""
    across = np.fft.rfftfreq(_GRID)
    down = np.fft.fftfreq(_GRID)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1.0
    waves = rng.standard_normal((3, *frequency.shape)) + 1j * rng.standard_normal((3, *frequency.shape))
    waves /= frequency**1.2
    waves[:, 0, 0] = 0
    field: npt.NDArray[np.float64] = np.fft.irfft2(waves, s=(_GRID, _GRID))
    field /= field.std(axis=(1, 2), keepdims=True)
    return field


def _shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    across, down = rng.uniform(0.04, 0.16, 2) * min(size)
    red, green, blue = (int(level) for level in rng.integers(30, 200, 3))
    box = (x - across, y - down, x + across, y + down)
    kind = rng.integers(3)
    if kind == 0:
        draw.ellipse(box, fill=(red, green, blue))
    elif kind == 1:
        draw.rectangle(box, fill=(red, green, blue))
    else:
        corners = [(x + across * float(a), y + down * float(b)) for a, b in rng.uniform(-2, 2, (4, 2))]
        draw.polygon(corners, fill=(red, green, blue))


def _encode(image: Image.Image, file_format: str, **options: int) -> bytes:
    out = io.BytesIO()
    if file_format == "GIF":
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    image.save(out, file_format, **(_ENCODE[file_format] | options))
    return out.getvalue()


def _recompressed(image: Image.Image) -> bytes:
    return _encode(image, "JPEG", quality=50)


def _smaller(image: Image.Image) -> bytes:
    return _encode(_scaled(image, 0.4), "JPEG")


def _larger(image: Image.Image) -> bytes:
    return _encode(_scaled(image, 1.8), "JPEG")


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _brighter(image: Image.Image) -> bytes:
    return _encode(ImageEnhance.Brightness(image).enhance(1.25), "JPEG")


def _grey(image: Image.Image) -> bytes:
    return _encode(image.convert("L"), "JPEG")


def _watermarked(image: Image.Image) -> bytes:
    """A translucent plate with a word in the lower right corner, 0.6 % of the picture."""
    draw = ImageDraw.Draw(image, "RGBA")
    left, top = int(image.width * 0.84), int(image.height * 0.92)
    right, bottom = left + int(image.width * 0.13), top + int(image.height * 0.05)
    draw.rectangle((left, top, right, bottom), fill=(255, 255, 255, 90))
    draw.text((left + 4, top + 4), "sample", fill=(0, 0, 0, 200))
    return _encode(image, "JPEG")


def _reworded(whole: str, rng: random.Random) -> str:
    """Other words in the place of a few, never more than 1 %."""
    words = whole.split(" ")
    for place in rng.sample(range(len(words)), max(1, int(len(words) * rng.uniform(*WORDS_CHANGED)))):
        words[place] = _word(rng)
    return " ".join(words)


def _word(rng: random.Random) -> str:
    syllables = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables))


_PICTURE_EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "recompressed to quality 50": _recompressed,
    "scaled to 40 %": _smaller,
    "scaled to 180 %": _larger,
    "brightened by a quarter": _brighter,
    "turned grey": _grey,
    "watermarked": _watermarked,
}
_TEXT_EDITS: dict[str, Callable[[str, random.Random], str]] = {"reworded under 1 %": _reworded}
PICTURE_EDITS = tuple(_PICTURE_EDITS)
TEXT_EDITS = tuple(_TEXT_EDITS)
EDITS = PICTURE_EDITS + TEXT_EDITS
