"""Real photos and real prose as uploads: crops and edits of scikit-image's bundled photos, Python's own manual.

Everything is a pure function of a seed. Known items are crops and passages; uploads are edits of them, unrelated
crops and passages, and five in a hundred are malformed in one of a dozen ways.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import skimage
from PIL import Image, ImageEnhance

UPLOAD_JSON = b"application/vnd.hashweir.upload+json"
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)


@dataclass(frozen=True)
class Sent:
    """One upload as it goes to the topic. `sort` is image, text or malformed.

    A malformed one has the `reason` that its verdict must give, or none where it may still decode.
    """

    id: str
    sort: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    reason: str | None = None


@dataclass(frozen=True)
class Item:
    """One known thing: its name, and its content as the analyst holds it."""

    name: str
    sort: str
    content: bytes


@cache
def _photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


@cache
def _prose() -> str:
    return " ".join(" ".join(topics[name].split()) for name in sorted(topics))


def crop(chance: random.Random) -> Image.Image:
    """A window of 180 to 420 px a side out of one of the photos."""
    photo = _photo(chance.choice(PHOTOS))
    width, height = (min(side, chance.randint(180, 420)) for side in photo.size)
    left, top = chance.randint(0, photo.width - width), chance.randint(0, photo.height - height)
    return photo.crop((left, top, left + width, top + height))


def passage(chance: random.Random) -> str:
    """2,000 to 6,000 characters of running English."""
    start = chance.randrange(len(_prose()) - 6_000)
    return _prose()[start : start + chance.randint(2_000, 6_000)]


def encode(picture: Image.Image, form: str, quality: int = 88) -> bytes:
    """The picture as a file; `quality` counts for JPEG and WebP."""
    out = io.BytesIO()
    picture.save(out, form, quality=quality)
    return out.getvalue()


def items(seed: int, images: int, texts: int) -> list[Item]:
    """The known items."""
    chance = random.Random(f"items-{seed}")
    pictures = [Item(f"photo-{n}", "image", encode(crop(chance), "PNG")) for n in range(images)]
    return pictures + [Item(f"text-{n}", "text", passage(chance).encode()) for n in range(texts)]


def edited_image(content: bytes, chance: random.Random) -> bytes:
    """An edit that keeps the picture recognisable: recompressed, scaled, brightened or grey."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    edit = chance.randrange(5)
    if edit == 1:
        factor = chance.choice([0.5, 0.7, 1.6])
        picture = picture.resize((int(picture.width * factor), int(picture.height * factor)))
    elif edit == 2:
        picture = ImageEnhance.Brightness(picture).enhance(chance.uniform(0.8, 1.25))
    elif edit == 3:
        picture = picture.convert("L").convert("RGB")
    return encode(picture, chance.choice(["JPEG", "JPEG", "WEBP", "PNG"]), chance.choice([50, 75, 90]))


def edited_text(content: bytes, chance: random.Random) -> bytes:
    """One word in a hundred changed."""
    words = content.decode().split(" ")
    for place in chance.sample(range(len(words)), max(1, len(words) // 100)):
        words[place] = words[place][::-1]
    return " ".join(words).encode()


def uploads(seed: int, count: int, known: list[Item]) -> Iterator[Sent]:
    """`count` uploads: half images, the rest texts, of which 5 % are malformed; a third are edits of known items."""
    chance = random.Random(f"uploads-{seed}")
    pictures = [one for one in known if one.sort == "image"]
    texts = [one for one in known if one.sort == "text"]
    for number in range(count):
        name = f"u{number}"
        if chance.random() < 0.05:
            yield malformed(name, number, chance, chance.choice(pictures).content)
        elif chance.random() < 0.55:
            near = chance.random() < 0.35
            value = (
                edited_image(chance.choice(pictures).content, chance)
                if near
                else encode(crop(chance), chance.choice(["JPEG", "PNG", "WEBP", "GIF"]))
            )
            yield _sent(name, "image", value, b"image/*")
        else:
            near = chance.random() < 0.35
            value = edited_text(chance.choice(texts).content, chance) if near else passage(chance).encode()
            if chance.random() < 0.5:
                yield _sent(name, "text", value, b"text/plain")
            else:
                yield _sent(name, "text", json.dumps({"text": value.decode()}).encode(), UPLOAD_JSON)


def malformed(name: str, number: int, chance: random.Random, picture: bytes) -> Sent:
    """One of the dozen ways in which an upload can be broken, in turn."""
    jpeg = encode(Image.open(io.BytesIO(picture)), "JPEG")
    flipped = bytearray(jpeg)
    for _ in range(8):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    ways: list[tuple[bytes, bytes, str | None]] = [
        (b"", b"image/png", "empty_value"),
        (jpeg[: len(jpeg) // 3], b"image/jpeg", None),
        (bytes(flipped), b"image/jpeg", None),
        (claims_to_be(60_000, 60_000), b"image/png", "too_many_pixels"),
        (b"\xff\xfe broken \xc3(", b"text/plain", "invalid_utf8"),
        (b"too short", b"text/plain", "too_short"),
        (b'{"text": 5}', UPLOAD_JSON, "bad_envelope"),
        (b"{not json", UPLOAD_JSON, "bad_envelope"),
        (b'{"fingerprints": [{"kind": "pdq", "value": "0f"}]}', UPLOAD_JSON, "bad_fingerprint"),
        (b'{"uri": "https://example.org/x.jpg"}', UPLOAD_JSON, "no_media_source"),
        (b"PK\x03\x04 something else", b"application/zip", "unknown_content_type"),
        (picture[: len(picture) // 2], b"image/png", None),
    ]
    value, content_type, reason = ways[number % len(ways)]
    return _sent(name, "malformed", value, content_type, reason)


def claims_to_be(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims a huge picture."""

    def part(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * 10)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", packed) + part(b"IEND", b"")


def _sent(name: str, sort: str, value: bytes, content_type: bytes, reason: str | None = None) -> Sent:
    headers = (("ce_id", name.encode()), ("ce_source", b"test"), ("content-type", content_type))
    return Sent(name, sort, value, headers, reason)
