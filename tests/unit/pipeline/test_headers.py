"""What a header says is what the codecs take it for, or nothing."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hashweir.model import Limits
from hashweir.pipeline.decode import Picture, decode
from hashweir.pipeline.headers import jpeg_size, webp_size
from tests.pictures import damaged, encode, photo


def exif() -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = 6
    return data


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True, "comment": b"of no interest"}],
    ids=str,
)
def test_a_plain_jpeg_tells_its_size(options: dict[str, Any]) -> None:
    for mode in ("RGB", "L"):
        assert jpeg_size(encode(photo(size=(333, 217)).convert(mode), "JPEG", **options)) == (333, 217)


def test_where_there_is_more_to_say_nothing_is_said() -> None:
    image = photo(size=(64, 48))
    assert jpeg_size(encode(image, "JPEG", exif=exif())) is None
    assert jpeg_size(encode(image, "MPO", save_all=True, append_images=[image])) is None
    assert jpeg_size(encode(image.convert("CMYK"), "JPEG")) is None


def test_a_header_that_can_be_read_in_two_ways_says_nothing() -> None:
    content = encode(photo(size=(64, 48)), "JPEG")
    frame = content.index(b"\xff\xc0")
    end = frame + 2 + int.from_bytes(content[frame + 2 : frame + 4])
    other = content[frame : frame + 5] + struct.pack(">HH", 9, 9) + content[frame + 9 : end]
    for header in (
        content[:frame] + other + content[frame:],  # two sizes
        content[:frame] + b"\xff" + content[frame:],  # filling
        content[:frame] + b"\0\0" + content[frame:],
        content[:frame] + b"\xff\xd0" + content[frame:],  # a restart where there is nothing yet
        content[:frame] + b"\xff\xe5\0\1" + content[frame:],  # shorter than its own length
        content[:frame] + content[end:],
        content[: frame + 5] + bytes(2) + content[frame + 7 :],  # the height comes later
        content[:frame] + b"\xff\xcb" + content[frame + 2 :],  # arithmetic codes
        content[:end],
    ):
        assert jpeg_size(header) is None
    assert jpeg_size(content) == (64, 48)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_size_or_nothing(content: bytes) -> None:
    for found in (jpeg_size(b"\xff\xd8\xff" + content), webp_size(b"RIFF0000WEBP" + content)):
        assert found is None or min(found) >= 0


def test_of_damaged_files_the_decoder_reads_no_other_size() -> None:
    told = 0
    for content in damaged(encode(photo(size=(96, 64)), "JPEG"), seed=7, count=2000):
        size = jpeg_size(content)
        if size is not None:
            told += 1
            try:
                height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
            except ValueError:
                continue
            assert (width, height) == size
    assert told > 100


def test_a_plain_jpeg_needs_no_second_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(photo(size=(96, 64)), "JPEG")
    expected = np.asarray(Image.open(BytesIO(content)))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    decoded = decode(content, None, Limits())
    assert isinstance(decoded, Picture)
    assert np.array_equal(decoded.rgb, expected)
    assert decoded.rgb.ctypes.data % 2 == 1, "an even address may be written past the cache"
