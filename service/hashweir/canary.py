"""The canary: an upload of our own that must be found, so that silence is noticed from end to end.

A worker puts one on each of its partitions now and then. It is a small PNG whose PDQ hash is the one entry of the set
`canary`; a comment that changes each time keeps scans of it out of the cache. That set applies to canaries only, and
only that set does. Who merely claims their source is judged as everybody: the content has to be a canary, bit by bit.
"""

from __future__ import annotations

import re
import struct
import zlib
from functools import cache
from typing import Final

from hashweir.model import Upload

CANARY_SET: Final = "canary"
"""Reserved: it holds the canary's hash and recommends nothing."""
CANARY_SOURCE: Final = "hashweir/canary"
CANARY_TYPE: Final = "image/png"
CANARY_PDQ: Final = "bf803d1a1f90391e07903f1e03903f9f01903fff6aaaca8affbfc010ffb5c010"
"""PDQ hash of the picture, of quality 100."""
SIDE: Final = 64
_KEYWORD: Final = b"Comment\0"
_TOKEN: Final = re.compile(rb"[0-9a-f]{16}")


def picture(token: str) -> bytes:
    """The PNG with this token (16 hex digits) in its comment. Same token, same bytes, whatever zlib there is."""
    head, tail = _around_comment()
    return head + _chunk(b"tEXt", _KEYWORD + token.encode()) + tail


def is_canary(upload: Upload) -> bool:
    """Whether this upload is a canary, and not only says so."""
    if upload.source != CANARY_SOURCE or upload.content is None:
        return False
    start = len(_around_comment()[0]) + 8 + len(_KEYWORD)
    token = upload.content[start : start + 16]
    return _TOKEN.fullmatch(token) is not None and upload.content == picture(token.decode())


@cache
def _around_comment() -> tuple[bytes, bytes]:
    """The file before and after the chunk with the comment."""
    rows = b"".join(b"\0" + bytes(_grey(x, y) for x in range(SIDE)) for y in range(SIDE))
    # Stored, not compressed: two libraries may compress the same bytes differently.
    stored = struct.pack("<BHH", 1, len(rows), len(rows) ^ 0xFFFF) + rows
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))
    return head, _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _grey(x: int, y: int) -> int:
    """Level of a pixel: triangle waves of several lengths, so that the hash has structure to go by."""
    waves = ((7, 3, 61), (2, -9, 47), (5, 11, 83), (-13, 4, 101))
    return sum(abs((a * x + b * y) % n * 2 - n) * 63 // n for a, b, n in waves)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
