"""HEIC and AVIF: the stored pixels, the turn to what is seen, files that lie, files cut short, no extra."""

from __future__ import annotations

import struct
import time
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image, ImageOps

from hashweir.errors import REASONS
from hashweir.hashing import pdq
from hashweir.model import Limits
from hashweir.pipeline import decode as decoding
from hashweir.pipeline.decode import Picture, Refusal, decode
from hashweir.pipeline.decode_heif import SAMPLES
from hashweir.pipeline.heif_file import read
from hashweir.pipeline.scan import scan
from hashweir.pipeline.sniff import sniff
from tests.pictures import encode, photo

LIMITS = Limits()
NAMES = {"AVIF": "image/avif", "HEIF": "image/heic"}


def oriented(format_name: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(size=(240, 160)), format_name, exif=exif.tobytes())


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    decoded = decode(content, None, LIMITS)
    assert isinstance(decoded, Picture), decoded
    return decoded.rgb


def reason(content: bytes, limits: Limits = LIMITS) -> str:
    decoded = decode(content, None, limits)
    assert isinstance(decoded, Refusal), decoded
    return decoded.reason


def claiming(content: bytes, width: int, height: int) -> bytes:
    """The file with another size in every `ispe` box."""
    made, at = bytearray(content), -1
    while (at := made.find(b"ispe", at + 1)) >= 0:
        made[at + 8 : at + 16] = struct.pack(">II", width, height)
    return bytes(made)


def bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("AVIF", {}),
        ("HEIF", {}),
        ("HEIF", {"tile_size": 128}),
        ("HEIF", {"quality": -1, "chroma": 444}),
        ("HEIF", {"chroma": 422, "save_nclx_profile": False}),
    ],
)
def test_the_pixels_are_those_that_the_library_gives(format_name: str, options: dict[str, Any], mode: str) -> None:
    """Of a HEIC up to the rounding of colours: its hash is 2 bits away at most."""
    content = encode(photo(size=(333, 217)).convert(mode), format_name, **options)
    expected = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    found = pixels(content)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (2 if format_name == "HEIF" else 1e-9)
    assert bits(pdq.fingerprint(found)[0].hex(), pdq.fingerprint(expected)[0].hex()) <= 2
    assert sniff(content) == sniff(content[:64]) == NAMES[format_name]


@pytest.mark.parametrize("depth", [10, 12])
def test_deeper_colours(depth: int) -> None:
    levels = np.asarray(photo(size=(320, 240))).astype(np.uint16) << 8
    file = BytesIO()
    made = pillow_heif.from_bytes("RGB;16", (320, 240), levels.tobytes())
    monkey = pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = depth == 12
    try:
        made.save(file)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = monkey
    expected = np.asarray(Image.open(BytesIO(file.getvalue())).convert("RGB"))
    assert bits(pdq.fingerprint(pixels(file.getvalue()))[0].hex(), pdq.fingerprint(expected)[0].hex()) <= 2


@pytest.mark.parametrize("format_name", NAMES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_canonical_is_what_is_stored_and_upright_what_is_seen(format_name: str, orientation: int) -> None:
    """The turn changes no stored pixel, however the format says it, and the upright form is that of the upright one."""
    content = oriented(format_name, orientation)
    plain = pixels(oriented(format_name, 1))
    assert np.array_equal(pixels(content), plain)
    found = {one.form: one.value for one in scan(content, None, LIMITS).fingerprints if one.kind == "pdq"}
    seen = Image.fromarray(plain)
    seen.getexif()[0x0112] = orientation
    upright = pdq.fingerprint(np.asarray(ImageOps.exif_transpose(seen)))[0].hex()
    assert bits(found.get("upright", found["canonical"]), upright) <= 2
    assert ("upright" in found) == (orientation > 1)


def test_a_heic_of_several_pictures_gives_the_primary_one() -> None:
    frames = [photo(name, (320, 240)) for name in ("astronaut.png", "coffee.png")]
    content = encode(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=1)
    assert np.abs(pixels(content).astype(int) - np.asarray(frames[1]).astype(int)).mean() < 10
    assert scan(content, None, LIMITS).footage is None


def test_a_moving_avif_is_judged_frame_by_frame() -> None:
    frames = [photo(name, (320, 240)) for name in ("astronaut.png", "coffee.png", "chelsea.png")]
    content = encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], duration=500)
    found = scan(content, "image/avif", LIMITS)
    assert found.footage is not None
    assert (found.footage.frames, found.footage.duration_s) == (3, 1.5)
    assert [one.time_s for one in found.fingerprints if one.time_s is not None] == [0, 0.5, 1]


@pytest.mark.parametrize("format_name", NAMES)
def test_a_size_over_the_limit_is_refused_by_the_header(format_name: str) -> None:
    content = encode(photo(size=(640, 480)), format_name)
    assert reason(content, Limits(pixels=640 * 480 - 1)) == "too_many_pixels"
    assert reason(content, Limits(side=639)) == "too_many_pixels"
    assert reason(claiming(content, 16_000, 16_000)) == "too_many_pixels"


def test_a_crop_hides_no_large_picture() -> None:
    """The size that counts is that of what is decoded, not of the corner of it that is shown."""
    content = bytearray(encode(photo(size=(637, 477)), "HEIF"))
    at = content.find(b"clap")
    assert at > 0  # of the encoder's padding
    limits = Limits(pixels=638 * 478 - 1)  # the encoder makes sides even
    assert pixels(bytes(content)).shape == (477, 637, 3)
    content[at + 4 : at + 20] = struct.pack(">IIII", 32, 1, 32, 1)
    content[at + 20 : at + 36] = struct.pack(">iIiI", 0, 1, 0, 1)
    assert reason(bytes(content), limits) == "too_many_pixels"
    assert pixels(bytes(content)).shape == (32, 32, 3)


def test_a_heic_whose_header_lies_about_its_size_is_not_decoded() -> None:
    content = encode(photo(size=(640, 480)), "HEIF")
    for width, height in ((16, 16), (641, 480), (480, 640), (5000, 5000)):
        assert reason(claiming(content, width, height)) == "undecodable"


def test_an_avif_whose_header_lies_has_the_size_that_it_claims() -> None:
    """libavif scales what it decodes to the size that it was told: what a browser shows too."""
    assert pixels(claiming(encode(photo(size=(640, 480)), "AVIF"), 320, 240)).shape == (240, 320, 3)


@pytest.mark.parametrize("format_name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_one_picture_cut_short_can_not_be_decoded(format_name: str, share: float) -> None:
    content = encode(photo(), format_name)
    assert reason(content[: int(share * len(content))]) == "undecodable"


def test_tiles_cut_short_are_looked_at_and_flagged() -> None:
    content = encode(photo(size=(500, 400)), "HEIF", tile_size=128)
    whole = decode(content, None, LIMITS)
    assert isinstance(whole, Picture)
    assert not whole.truncated
    cut = decode(content[: len(content) * 2 // 3], None, LIMITS)
    assert isinstance(cut, Picture)
    assert cut.truncated
    assert np.array_equal(cut.rgb[:128, :256], whole.rgb[:128, :256])
    assert scan(content[: len(content) * 2 // 3], None, LIMITS).checked["pdq"] == "truncated"


def test_a_damaged_tile_is_flagged() -> None:
    content = bytearray(encode(photo(size=(500, 400)), "HEIF", tile_size=128))
    content[-1000:] = bytes(1000)
    decoded = decode(bytes(content), None, LIMITS)
    assert isinstance(decoded, Picture)
    assert decoded.truncated


def test_a_decoder_that_needs_a_whole_configuration_does_not_take_the_next_ones() -> None:
    """A picture that spoils the decoder is no harm to the one after it."""
    content = encode(photo(size=(64, 64)), "HEIF")
    whole = pixels(content)
    assert reason(content.replace(b"hvcC", b"hvcD")) == "undecodable"
    assert np.array_equal(pixels(content), whole)


def box(name: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), name) + b"".join(parts)


@pytest.mark.parametrize(
    "parts",
    [
        [box(b"iloc", struct.pack(">IHI", 2 << 24, 0, 60_000), struct.pack(">IHHH", 1, 0, 0, 65_535) * 60_000)],
        [box(b"iloc", struct.pack(">IHH", 0, 0, 1), struct.pack(">HHH", 1, 0, 65_535))],
        [box(b"free")] * 100_000,
        [box(b"iref", bytes(4), *[box(b"dimg", struct.pack(">HH", 1, 65_535), bytes(131_070))] * 9)],
        [box(b"iprp", box(b"ipma", struct.pack(">II", 0, 10**6), b"\0\1\0" * 10**6))],
        [box(b"iprp", box(b"ipco", box(b"clap", struct.pack(">8I", *[1, 0] * 4)), box(b"irot")))],
    ],
    ids=["items", "extents", "boxes", "tiles", "associations", "fields"],
)
def test_counts_that_take_no_room_cost_no_time(parts: list[bytes]) -> None:
    started = time.process_time()
    assert reason(box(b"ftyp", b"heic", bytes(4)) + box(b"meta", bytes(4), *parts)) == "undecodable"
    assert time.process_time() - started < 5  # an unbounded one takes minutes


def test_tiles_that_share_their_bytes_are_refused() -> None:
    """A megabyte of which every one of a thousand tiles is all would be a thousand megabytes in memory."""
    heads = (
        box(b"pitm", struct.pack(">IH", 0, 1)),
        box(
            b"iinf",
            struct.pack(">IH", 0, 2),
            *(box(b"infe", struct.pack(">IHH4s", 2 << 24, n, 0, kind)) for n, kind in ((1, b"grid"), (2, b"hvc1"))),
        ),
        box(b"iref", bytes(4), box(b"dimg", struct.pack(">HH", 1, 1000), struct.pack(">H", 2) * 1000)),
    )
    located = struct.pack(">IHH", 1 << 24, 0x4400, 2)
    located += struct.pack(">HHHHII", 1, 1, 0, 1, 0, 8) + struct.pack(">HHHHII", 2, 0, 0, 1, 0, 0)
    sizes = box(b"ispe", struct.pack(">III", 0, 4000, 2500))
    parts = [
        *heads,
        box(b"iloc", located),
        box(b"idat", struct.pack(">BBBBHH", 0, 0, 24, 39, 4000, 2500)),
        box(
            b"iprp",
            box(b"ipco", sizes, box(b"hvcC", bytes(30))),
            box(b"ipma", struct.pack(">II", 0, 2), struct.pack(">HBB", 1, 1, 1), struct.pack(">HBB", 2, 1, 2)),
        ),
    ]
    content = box(b"ftyp", b"heic", bytes(4)) + box(b"meta", bytes(4), *parts) + box(b"mdat", bytes(2**20))
    with pytest.raises(ValueError, match="share their bytes"):
        read(content)
    assert reason(content) == "undecodable"


def test_brands() -> None:
    def file(*brands: bytes) -> bytes:
        return struct.pack(">I4s4sI", 16 + 4 * len(brands[1:]), b"ftyp", brands[0], 0) + b"".join(brands[1:])

    assert sniff(file(b"mif1", b"miaf", b"avif")) == "image/avif"
    assert sniff(file(b"mif1", b"heic")) == sniff(file(b"msf1", b"hevc")) == sniff(file(b"heix")) == "image/heic"
    assert sniff(file(b"mif1") + b"avif" * 9) == "image/heic"  # beyond the box is no brand
    assert sniff(file(b"isom", b"heic")) == sniff(file(b"mp42")) == "video/mp4"
    assert sniff(file(b"qt  ")) == "video/quicktime"
    assert sniff(b"\0\0\0\x1cftypmif1") == "image/heic"


@pytest.mark.parametrize("content", SAMPLES)
def test_without_the_extra_the_answer_names_it(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PILLOW_NAMES", {"image/png": "PNG"})
    monkeypatch.setattr(decoding, "HAVE_DECODER", False)
    found = scan(content, "image/heic", LIMITS)
    assert (found.media_class, found.reason, found.checked["pdq"]) == ("image", *["unknown_content_type"] * 2)
    assert found.checked["sha256"] == "ok"
    assert "`heic`" in REASONS["unknown_content_type"].help


def test_other_names_of_a_type_are_no_mismatch() -> None:
    content = encode(photo(size=(64, 64)), "HEIF")
    for declared, notes in (("image/heif", ()), ("image/heic", ()), ("image/jpeg", ("type_mismatch",))):
        assert scan(content, declared, LIMITS).notes == notes
