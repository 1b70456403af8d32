"""The brute-force matcher that judges the whole system. Shares no code with it: Pillow, pdqhash, py-tlsh, numpy.

It looks at every entry for every upload, one by one, in the most obvious way.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pdqhash
import tlsh
from PIL import Image

from tests.system.corpus import UPLOAD_JSON, Sent

PDQ_RADIUS, MIN_QUALITY = 31, 50
TLSH_RADII = ((100, 57), (300, 83), (1_000, 66), (3_000, 41), (10_000, 21), (30_000, 15))
"""Length of the normal form and its radius, copied from decision 0006; between two, in proportion to the logarithm."""


@dataclass(frozen=True)
class Known:
    """One entry: `value` is text in the kind's usual spelling; `length` is that of a text's normal form."""

    set: str
    item: str
    kind: str
    value: str
    length: int | None = None


@dataclass(frozen=True)
class Seen:
    """What one upload's content hashes to; None where it can't be had."""

    sha256: str
    md5: str
    pdq: str | None = None
    tlsh: str | None = None
    length: int | None = None


def item_id(set_name: str, item: str) -> str:
    """The id of a named item, as the format page derives it."""
    parts = (set_name.encode(), item.encode())
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.blake2b(joined, digest_size=8).hexdigest()


def pdq(content: bytes) -> tuple[str, int]:
    """PDQ of a picture as 64 hex, and its quality."""
    bits, quality = pdqhash.compute(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    return np.packbits(bits).tobytes().hex(), int(quality)


def normal(text: str) -> str:
    """The normal form of a text of common letters: compatible letters, one case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normal_tlsh(text: str) -> str:
    """TLSH of the normal form, one byte per character."""
    return str(tlsh.hash(bytes(ord(one) % 256 for one in normal(text))))


def look(sent: Sent) -> Seen:
    """Hash an upload the obvious way."""
    content = sent.value
    if dict(sent.headers)["content-type"] == UPLOAD_JSON:
        content = json.loads(content)["text"].encode()
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()
    if sent.sort == "image":
        value, quality = pdq(content)
        return Seen(sha256, md5, pdq=value if quality >= MIN_QUALITY else None)
    text = content.decode()
    return Seen(sha256, md5, tlsh=normal_tlsh(text), length=len(normal(text)))


def hits(seen: Seen, known: Iterable[Known]) -> set[tuple[str, str]]:
    """Every (set, item) of which some entry is near."""
    return {(one.set, one.item) for one in known if _near(seen, one)}


def tlsh_radius(length: int) -> int:
    """How far a text of this length may be from a known one."""
    lengths, radii = zip(*TLSH_RADII, strict=True)
    return int(np.interp(np.log(length), np.log(lengths), radii) + 1e-9)


def _near(seen: Seen, one: Known) -> bool:
    if one.kind in ("sha256", "md5"):
        return bool(getattr(seen, one.kind) == one.value)
    if one.kind == "pdq" and seen.pdq is not None:
        return (int(seen.pdq, 16) ^ int(one.value, 16)).bit_count() <= PDQ_RADIUS
    if one.kind == "tlsh" and seen.tlsh not in (None, "TNULL", "") and seen.length is not None:
        fits = one.length is None or 0.8 <= seen.length / one.length <= 1.25
        radius = min(tlsh_radius(length) for length in (seen.length, one.length or seen.length))
        return fits and tlsh.diffxlen(seen.tlsh, one.value) <= radius
    return False
