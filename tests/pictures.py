"""Real photos (those inside scikit-image's wheel), and ways to spoil a file. Everything is seeded."""

from __future__ import annotations

import importlib.util
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF")


@cache
def photos() -> dict[str, bytes]:
    """File name to file, for every PNG, JPEG and GIF of the bundle."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    files = sorted(path for path in data.iterdir() if path.suffix in (".png", ".jpg", ".gif"))
    assert len(files) >= 20
    return {path.name: path.read_bytes() for path in files}


def photo(name: str = "astronaut.png", size: tuple[int, int] | None = None) -> Image.Image:
    """A photo as RGB."""
    image = Image.open(BytesIO(photos()[name])).convert("RGB")
    return image.resize(size) if size else image


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """A picture as a file of this format."""
    file = BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def damaged(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """The file cut short, with flipped bits, with a missing or a doubled stretch, in turn."""
    chance = random.Random(seed)
    for number in range(count):
        at = chance.randrange(1, len(content))
        spoilt = bytearray(content)
        match number % 4:
            case 0:
                del spoilt[at:]
            case 1:
                for _ in range(chance.randrange(1, 9)):
                    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            case 2:
                del spoilt[at : at + chance.randrange(1, 200)]
            case _:
                spoilt[at:at] = spoilt[at : at + chance.randrange(1, 200)]
        yield bytes(spoilt)


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, body: bytes = b"", extra: bytes = b"") -> bytes:
    """A hand-made PNG whose header may promise anything. `body` is what is compressed into its one IDAT."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    return start + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def one_bit_bomb(side: int = 13_000) -> bytes:
    """A one-bit PNG of side x side black pixels: some 20 kB for 169 million pixels."""
    return png(side, side, bits=1, body=bytes((side + 7) // 8 + 1) * side)


def giant_claims() -> dict[str, bytes]:
    """Tiny files whose headers promise far more than anything may have."""
    webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
    return {
        "png": png(60_000, 60_000),
        "gif": b"GIF89a" + struct.pack("<HHBBB", 30_000, 30_000, 0, 0, 0) + b"\x2c" + bytes(30) + b"\x3b",
        "webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "webp lossless": b"RIFF\x40\0\0\0WEBPVP8L\x30\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(43),
        "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\x00\x11\x08"
        + struct.pack(">HH", 65_000, 65_000)
        + b"\3\1\x22\0\2\x11\1\3\x11\1",
    }
