"""Untrusted bytes to a picture, a text or a document, under limits. Runs inside a scan process, on one thread.

The magic bytes choose the decoder. A picture's header is read first and judged before any pixel is decoded; then
simplejpeg decodes plain JPEG, Pillow the rest and whatever simplejpeg refuses. Pixels are RGB-correct: palettes,
CMYK, 1-bit and 16-bit are converted, alpha is dropped and not composited, EXIF orientation is ignored, animations
give their first frame, HEIC its primary picture. Pillow is given bytes only, never a name.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile, MpoImagePlugin, WebPImagePlugin

from hashweir.model import FormGroup, Limits, MediaClass, QueryForm, Turn
from hashweir.pipeline.decode_heif import AVIF, AVIF_NAMES, HEIC, heic
from hashweir.pipeline.decode_pdf import Page, Unopened, pages
from hashweir.pipeline.decode_views import FAST_ONLY, Luma, misread, small_luma, upright
from hashweir.pipeline.headers import jpeg_size, webp_size
from hashweir.pipeline.sniff import PDF, sniff
from hashweir.pipeline.video_file import HAVE_DECODER

Pixels = npt.NDArray[np.uint8]

PILLOW_NAMES: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    **AVIF_NAMES,
}
_ANIMATED: Final = ("image/gif", "image/webp", "image/png", AVIF)
_CODEC_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders, written in Python and C, are known to raise on malformed files. MemoryError is not one."""
_PRELOADED: Final = (MpoImagePlugin, WebPImagePlugin)
"""Pillow imports these only when a file asks for them: too late, where files can't be opened any more."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded pixels: height x width x 3, uint8, RGB. `truncated`: the file is damaged, some are made up.

    `upright` is the turn that EXIF asks for; `misread` the pixels that python-threatexchange takes for this file's,
    and that form's name. The latter only where they were asked for and differ.
    """

    media_type: str
    rgb: Pixels
    truncated: bool
    upright: Turn | None = None
    misread: tuple[QueryForm, Pixels] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is valid UTF-8."""

    media_type: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A PDF that opens. Its pages are read one by one, as they are asked for: all at once would fill the memory."""

    media_type: str
    pages: Iterator[Page]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing to hash perceptually, and the reason."""

    media_type: str | None
    media_class: MediaClass | None
    reason: str


Decoded = Picture | Luma | Text | Document | Refusal


class OverLimit(Exception):
    """A header promises more than the limits allow."""


def decode(content: bytes, declared: str | None, limits: Limits, forms: Collection[FormGroup] = ()) -> Decoded:
    """Decode by magic bytes. `declared` (a media type without parameters) matters where there are none: text.

    A declared text that merely begins like a picture or a PDF is read as text where nothing comes of it. PDF
    readers also take files with something else in front, so a declared one is tried whatever it begins with.
    """
    media_type = sniff(content)
    decoded: Decoded | None = None
    if media_type == PDF or (media_type is None and declared == PDF):
        decoded = _document(content, limits)
    elif media_type in PILLOW_NAMES:
        decoded = _picture(content, media_type, limits, forms)
    elif media_type == HEIC and HAVE_DECODER:
        decoded = _heic(content, limits)
    elif media_type in (AVIF, HEIC):
        decoded = Refusal(media_type, "image", "unknown_content_type")
    if isinstance(decoded, Picture | Luma | Document):
        return decoded
    if declared is not None and declared.startswith("text/"):
        text = _text(content, declared, limits)
        if decoded is None or isinstance(text, Text):
            return text
    if decoded is not None:
        return decoded
    if declared is not None and declared.startswith("image/"):
        return Refusal(declared, "image", "undecodable")
    if declared is not None and declared.startswith("video/"):
        return Refusal(declared, "video", "unknown_content_type")
    return Refusal(declared, None, "unknown_content_type")


def animation(content: bytes, limits: Limits) -> Iterator[tuple[float, float, Pixels]]:
    """The frames of an animated GIF, WebP, PNG or AVIF as a viewer sees them: (time, length in seconds, pixels).

    The first frame included; all of them, or of more than `limits.animation_frames` every second, third and so on.
    Nothing for a still picture. Ends in silence where the file is cut short. Raises OverLimit where a later frame is
    larger than what is decoded.
    """
    media_type = sniff(content)
    if media_type not in _ANIMATED or media_type not in PILLOW_NAMES:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(content), formats=[PILLOW_NAMES[media_type]]) as image:
                _require_size(image.size, limits)
                count = getattr(image, "n_frames", 1)
                step = -(-count // limits.animation_frames)
                time_s = 0.0
                for number in range(count if count > 1 else 0):
                    image.seek(number)
                    _require_size(image.size, limits)  # a GIF's later frames may make it larger
                    image.load()  # a WebP tells the length of a frame only then
                    length_s = _frame_s(image)
                    if number % step == 0:
                        yield time_s, length_s, _rgb(image)
                    time_s += length_s
        except Image.DecompressionBombError as error:
            raise OverLimit from error
        except _CODEC_ERRORS as error:
            if "memory" in str(error):
                raise MemoryError(str(error)) from error


def _frame_s(image: Image.Image) -> float:
    """How long a frame is shown, in seconds; a tenth where the file says nothing sensible, as browsers do."""
    length = image.info.get("duration") or 0
    return length / 1000 if isinstance(length, int | float) and 10 < length < 1e7 else 0.1


def _document(content: bytes, limits: Limits) -> Document | Refusal:
    try:
        return Document(PDF, pages(content, limits))
    except Unopened as unopened:
        return Refusal(PDF, "document", unopened.reason)


def _text(content: bytes, declared: str, limits: Limits) -> Text | Refusal:
    if len(content) > limits.text_bytes:
        return Refusal(declared, "text", "too_large")
    try:
        return Text(declared, content.decode())
    except UnicodeDecodeError:
        return Refusal(declared, "text", "invalid_utf8")


def _picture(content: bytes, media_type: str, limits: Limits, forms: Collection[FormGroup]) -> Picture | Luma | Refusal:
    # Strictly first; then with Pillow's leave to fill up what is missing: a damaged picture is still looked at.
    for truncated in (False, True):
        try:
            found = _pixels(content, media_type, limits, forms, lenient=truncated)
        except OverLimit:
            return Refusal(media_type, "image", "too_many_pixels")
        except _CODEC_ERRORS as error:
            if "memory" in str(error):  # Pillow's codecs report it as an OSError
                raise MemoryError(str(error)) from error
            continue
        if truncated and isinstance(found, Picture) and (found.rgb == found.rgb[0, 0]).all():
            break  # nothing but filling
        return found
    return Refusal(media_type, "image", "undecodable")


def _pixels(
    content: bytes, media_type: str, limits: Limits, forms: Collection[FormGroup], *, lenient: bool
) -> Picture | Luma:
    if media_type == "image/webp" and (size := webp_size(content)):
        _require_size(size, limits)  # Pillow's WebP reader makes room for the canvas before it tells the size
    plain = jpeg_size(content) if media_type == "image/jpeg" and not lenient else None
    if plain is not None:
        _require_size(plain, limits)
        if found := _by_simplejpeg(content, plain, forms, None, judged=True):
            return found
    with warnings.catch_warnings():
        # Other warnings are about odd metadata; an error of them would let a mark on the file hide the picture.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        try:
            with Image.open(BytesIO(content), formats=[PILLOW_NAMES[media_type]]) as image:
                _require_size(image.size, limits)
                turn = _turn(image)
                odd = media_type == "image/jpeg" and not lenient and plain is None and image.mode in ("RGB", "L")
                if odd and (found := _by_simplejpeg(content, image.size, forms, turn, judged=False)):
                    return found
                rgb = _rgb(image)
                other = misread(image) if "threatexchange" in forms else None
                return Picture(media_type, rgb, lenient, turn, other)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise OverLimit from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _heic(content: bytes, limits: Limits) -> Picture | Refusal:
    try:
        rgb, damaged, turn = heic(content, lambda size: _require_size(size, limits), limits)
    except (OverLimit, *_CODEC_ERRORS) as error:
        return Refusal(HEIC, "image", "too_many_pixels" if isinstance(error, OverLimit) else "undecodable")
    return Picture(HEIC, rgb, damaged, turn)


def _require_size(size: tuple[int, int], limits: Limits) -> None:
    short, long = sorted(size)
    pixels = short * long
    strip = long > limits.ratio * short and pixels > limits.ratio_free_pixels
    if pixels > limits.pixels or long > limits.side or strip:
        raise OverLimit


def _by_simplejpeg(
    content: bytes, size: tuple[int, int], forms: Collection[FormGroup], turn: Turn | None, *, judged: bool
) -> Picture | Luma | None:
    """simplejpeg's pixels, which equal Pillow's; None where Pillow has to decide: CMYK, or anything odd.

    `judged`: there is one way only to read the header.
    """
    if FAST_ONLY.issuperset(forms) and "fast" in forms:
        luma = small_luma(content, size, turn)
        if luma is not None:
            return luma
    try:
        if not judged:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content, strict=True)
            if (width, height) != size or colorspace not in ("YCbCr", "RGB", "Gray"):
                return None
        # At an odd address: rows at whole multiples of 32 would be written past the cache (libjpeg-turbo's streaming
        # stores), and summing them up would take twice as long.
        room = np.empty(3 * size[0] * size[1] + 1, np.uint8)[1:]
        rgb: Pixels = simplejpeg.decode_jpeg(
            content, "RGB", fastdct=False, fastupsample=False, strict=True, buffer=room
        )
    except ValueError:
        return None
    return Picture("image/jpeg", rgb, False, turn)


def _turn(image: Image.Image) -> Turn | None:
    """Broken EXIF data must not hide a picture: without an orientation it lies as it lies."""
    try:
        return upright(image)
    except _CODEC_ERRORS:
        return None


def _rgb(image: Image.Image) -> Pixels:
    image.load()
    if image.mode.startswith("I"):
        # 16-bit grey: the high byte, as for every other 16-bit picture. Pillow's own conversion clips to white.
        grey = np.clip(np.asarray(image), 0, 0xFFFF).astype(np.uint16) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
