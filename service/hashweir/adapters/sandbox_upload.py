"""What is said of an upload without decoding it: its declared type, its class by magic bytes, its digests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from hashweir.hashing import exact
from hashweir.model import KINDS_OF, Kind, MediaClass, Scan
from hashweir.pipeline.sniff import sniff

_CLASSES: Final[Mapping[str, MediaClass]] = {"image": "image", "video": "video", "text": "text"}
_DIGEST_HERE_BYTES: Final = 512 * 1024
"""Up to so many, a digest takes a third of a millisecond: a thread would save the loop less than it costs."""


def declared(media_type: str | None) -> str | None:
    """The declared type as scans see it: without parameters, in lower case."""
    return media_type.partition(";")[0].strip().lower() if media_type else None


def declared_class(media_type: str | None) -> MediaClass | None:
    """The media class of the declared type: it only picks limits, and names what could not be scanned."""
    name = declared(media_type) or ""
    if name == "application/pdf":
        return "document"
    return _CLASSES.get(name.partition("/")[0])


def class_of(content: bytes, media_type: str | None) -> MediaClass | None:
    """The media class by magic bytes, else as declared: what picks deadline and lane, so that no name evades them."""
    return declared_class(sniff(content[:64])) or declared_class(media_type)


async def sha256_of(content: bytes) -> bytes:
    """SHA-256 (32 bytes), of long contents on a thread."""
    if len(content) <= _DIGEST_HERE_BYTES:
        return exact.sha256(content)
    return await asyncio.to_thread(exact.sha256, content)


def failed_scan(content: bytes, media_type: str | None, reason: str, attempts: int) -> Scan:
    """What is left where no process could do it: a file that is known byte for byte is still found."""
    media_class = class_of(content, media_type)
    checked: dict[Kind, str] = dict.fromkeys(KINDS_OF[media_class], reason) if media_class else {}
    return Scan(
        media_class=media_class,
        media_type=media_type,
        fingerprints=exact.fingerprints(content),
        checked=checked | {"sha256": "ok", "md5": "ok"},
        reason=reason,
        attempts=attempts,
    )
