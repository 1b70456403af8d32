from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from hashweir.model import Limits
from hashweir.pipeline.decode import Picture, Refusal, Text, decode
from hashweir.pipeline.scan import scan
from hashweir.pipeline.sniff import sniff
from tests.pictures import FORMATS, chunk, damaged, encode, giant_claims, one_bit_bomb, photo, photos, png

LIMITS = Limits()


def pixels(content: bytes, declared: str | None = None, limits: Limits = LIMITS) -> npt.NDArray[np.uint8]:
    decoded = decode(content, declared, limits)
    assert isinstance(decoded, Picture), decoded
    assert not decoded.truncated
    assert decoded.rgb.dtype == np.uint8
    return decoded.rgb


def refusal(content: bytes, declared: str | None = None, limits: Limits = LIMITS) -> str:
    decoded = decode(content, declared, limits)
    assert isinstance(decoded, Refusal), decoded
    return decoded.reason


def by_pillow(content: bytes) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("name", photos())
def test_real_photos_have_the_pixels_that_pillow_gives(name: str) -> None:
    assert np.array_equal(pixels(photos()[name]), by_pillow(photos()[name]))


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 5},
        {"quality": 85},
        {"quality": 100, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"optimize": True, "dpi": (300, 300)},
    ],
    ids=str,
)
def test_both_jpeg_decoders_give_the_same_pixels(options: dict[str, Any]) -> None:
    for image in (photo(size=(333, 217)), photo(size=(8, 5)), photo(size=(333, 217)).convert("L")):
        content = encode(image, "JPEG", **options)
        assert np.array_equal(pixels(content), by_pillow(content))


def test_palettes_give_colours_and_not_their_indices() -> None:
    image = photo().quantize(64)
    for content in (encode(image, "PNG"), encode(image, "GIF"), encode(image, "PNG", transparency=bytes([0, 90]))):
        assert np.array_equal(pixels(content), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_and_not_composited() -> None:
    rgb = np.asarray(photo())
    alpha = np.zeros((*rgb.shape[:2], 1), np.uint8)
    image = Image.fromarray(np.concatenate([rgb, alpha], axis=2))
    assert np.array_equal(pixels(encode(image, "PNG")), rgb)
    assert np.array_equal(pixels(encode(image, "WEBP", lossless=True, exact=True)), rgb)
    grey = image.convert("LA")
    assert np.array_equal(pixels(encode(grey, "PNG")), np.asarray(photo().convert("L").convert("RGB")))


def test_one_bit_is_black_and_white() -> None:
    image = photo().convert("1")
    assert np.array_equal(pixels(encode(image, "PNG")), np.asarray(image.convert("RGB")))
    assert set(np.unique(pixels(encode(image, "PNG")))) == {0, 255}


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    rgb = pixels(encode(Image.fromarray(levels), "PNG"))
    assert np.array_equal(rgb[:, :, 0], (levels >> 8).astype(np.uint8))
    assert np.array_equal(rgb[:, :, 0], rgb[:, :, 2])


def test_cmyk_is_converted() -> None:
    content = encode(photo().convert("CMYK"), "JPEG", quality=95)
    error = np.abs(pixels(content).astype(int) - np.asarray(photo()).astype(int))
    assert error.mean() < 5


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = encode(photo(), "JPEG"), encode(photo(), "JPEG", exif=exif)
    assert np.array_equal(pixels(plain), pixels(turned))


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_later_frame_that_is_far_larger_is_not_decoded(side: int) -> None:
    """A GIF grows with its frames: what the first one promises is not all that has to be judged."""
    frames = [photo(name, (64, 64)) for name in ("astronaut.png", "coffee.png", "chelsea.png")]
    content = bytearray(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    at = content.find(b"\x2c" + struct.pack("<HHHH", 0, 0, 64, 64), content.find(b"\x2c\0\0\0\0") + 1)
    content[at + 5 : at + 9] = struct.pack("<HH", side, side)
    assert pixels(bytes(content)).shape == (64, 64, 3)
    found = scan(bytes(content), None, LIMITS)
    assert (found.checked["pdq"], len([one for one in found.fingerprints if one.time_s is not None])) == ("partial", 1)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(format_name: str) -> None:
    frames = [photo(name, (120, 90)) for name in ("astronaut.png", "coffee.png", "chelsea.png")]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    if format_name == "WEBP":
        options["lossless"] = True
    first = pixels(encode(frames[0], format_name, **options)).astype(int)
    error = [np.abs(first - np.asarray(frame).astype(int)).mean() for frame in frames]
    assert error[0] < 10 < min(error[1:])


def test_a_picture_of_several_jpegs_gives_the_first() -> None:
    content = encode(photo(), "MPO", save_all=True, append_images=[photo("coffee.png")])
    assert sniff(content) == "image/jpeg"
    assert np.array_equal(pixels(content), by_pillow(encode(photo(), "JPEG")))


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_follows_the_picture_is_no_damage(format_name: str) -> None:
    content = encode(photo(), format_name)
    assert np.array_equal(pixels(content + b"trailing bytes of something else" * 50), pixels(content))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF"])
def test_a_file_cut_short_is_still_looked_at(format_name: str) -> None:
    content = encode(photo(), format_name, interlace=0)
    decoded = decode(content[: len(content) // 2], None, LIMITS)
    assert isinstance(decoded, Picture)
    assert decoded.truncated
    whole = pixels(content)
    assert np.array_equal(decoded.rgb[:150], whole[:150])


def test_a_webp_cut_short_cannot_be_decoded() -> None:
    content = encode(photo(), "WEBP")
    assert refusal(content[: len(content) // 2]) == "undecodable"


def test_a_header_without_pixels_is_no_picture() -> None:
    content = encode(photo(), "PNG")
    assert refusal(content[: content.index(b"IDAT") + 8]) == "undecodable"


@pytest.mark.parametrize(("name", "content"), giant_claims().items(), ids=giant_claims())
def test_promises_over_the_limit_are_refused_by_the_header(name: str, content: bytes) -> None:
    assert refusal(content) == "too_many_pixels"
    assert len(png(60_000, 60_000)) < 80


def test_a_bomb_is_refused_by_its_header() -> None:
    assert len(one_bit_bomb()) < 25_000
    assert refusal(one_bit_bomb()) == "too_many_pixels"


@pytest.mark.parametrize(
    ("size", "limits", "passes"),
    [
        ((200, 100), Limits(pixels=20_000), True),
        ((200, 101), Limits(pixels=20_000), False),
        ((200, 10), Limits(side=200), True),
        ((201, 10), Limits(side=200), False),
        ((400, 2), Limits(ratio=200, ratio_free_pixels=0), True),
        ((401, 2), Limits(ratio=200, ratio_free_pixels=0), False),
        ((2, 401), Limits(ratio=200, ratio_free_pixels=0), False),
        ((401, 2), Limits(ratio=200, ratio_free_pixels=802), True),
    ],
)
@pytest.mark.parametrize("format_name", [one for one in FORMATS if one != "HEIF"])  # its encoder adds a border
def test_limits_hold_to_the_pixel(format_name: str, size: tuple[int, int], limits: Limits, passes: bool) -> None:
    content = encode(photo(size=size), format_name)
    if passes:
        assert pixels(content, limits=limits).shape == (size[1], size[0], 3)
    else:
        assert refusal(content, limits=limits) == "too_many_pixels"


def test_bulky_metadata_does_not_hide_a_picture() -> None:
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(64)) for y in range(64))
    note = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(80 * 2**20), 9))
    decoded = decode(png(64, 64, body=rows, extra=note), None, LIMITS)
    assert isinstance(decoded, Picture)
    assert np.array_equal(decoded.rgb, pixels(png(64, 64, body=rows)))


def test_magic_bytes_choose_the_decoder() -> None:
    for format_name, media_type in zip(FORMATS, ("jpeg", "png", "gif", "webp", "avif", "heic"), strict=True):
        content = encode(photo(size=(64, 64)), format_name)
        for declared in (None, "image/png", "text/plain", "video/mp4", "nonsense"):
            decoded = decode(content, declared, LIMITS)
            assert isinstance(decoded, Picture)
            assert decoded.media_type == f"image/{media_type}"


@pytest.mark.parametrize("format_name", ["TIFF", "BMP", "PPM", "ICO", "TGA"])
def test_formats_off_the_list_are_not_opened(format_name: str) -> None:
    content = encode(photo(size=(64, 64)), format_name)
    assert refusal(content, "image/png") == "undecodable"
    assert refusal(content) == "unknown_content_type"
    # Behind the magic bytes of another format, Pillow would find the TIFF where it were free to choose.
    assert refusal(b"\xff\xd8\xff" + content) == "undecodable"


def test_texts() -> None:
    assert decode("Grüße".encode(), "text/plain", LIMITS) == Text("text/plain", "Grüße")
    assert decode(b"", "text/plain", LIMITS) == Text("text/plain", "")
    assert refusal(b"abc\xff", "text/plain") == "invalid_utf8"
    assert refusal(b"\xed\xa0\x80", "text/plain") == "invalid_utf8"
    assert refusal("a".encode("utf-16"), "text/plain") == "invalid_utf8"
    assert refusal(b"a" * 11, "text/plain", Limits(text_bytes=10)) == "too_large"
    assert refusal(b"just words") == "unknown_content_type"
    assert refusal(b"", "image/png") == "undecodable"
    assert refusal(b"%PDF-1.7", "application/pdf") == "undecodable"


def test_a_text_that_begins_like_a_picture_is_a_text() -> None:
    prose = b"GIF89a is how every such file begins, and this one is prose about it."
    assert decode(prose, "text/plain", LIMITS) == Text("text/plain", prose.decode())
    assert refusal(prose, "image/gif") in ("undecodable", "too_many_pixels")


def test_a_damaged_picture_declared_as_text_is_a_damaged_picture() -> None:
    assert refusal(encode(photo(), "PNG")[:30], "text/plain") == "undecodable"


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBP"])
)
def test_any_bytes_give_a_picture_a_text_or_a_reason(content: bytes, magic: bytes) -> None:
    decode(magic + content, "image/png", LIMITS)
    decode(magic + content, "text/plain", LIMITS)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("format_name", FORMATS)
def test_damaged_files_give_a_picture_or_a_reason(format_name: str) -> None:
    outcomes = {"picture": 0, "truncated": 0, "refusal": 0}
    for content in damaged(encode(photo(size=(96, 64)), format_name), seed=1, count=400):
        decoded = decode(content, None, LIMITS)
        if isinstance(decoded, Picture):
            outcomes["truncated" if decoded.truncated else "picture"] += 1
        else:
            outcomes["refusal"] += 1
    assert sum(outcomes.values()) == 400
    assert outcomes["picture"] > 0 < outcomes["refusal"]
