"""Sizes that a picture's header tells, read before any codec sees it."""

from __future__ import annotations

import struct
from typing import Final

_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive, with Huffman codes (ITU-T T.81, table B.1)."""
_SCAN: Final = 0xDA
_PASSED: Final = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Huffman and quantization tables, restart interval, comment, application data."""
_NOT_PLAIN: Final = (b"Exif\0", b"MPF\0")
"""Application data that says more than how to read the pixels: how the picture lies, or that it is one of several."""
_SIZE: Final = struct.Struct(">xxHBHHB")


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of an 8-bit JPEG of one or three colours, whose header holds nothing else of interest.

    None for any other, and where a byte is not what or where it is most often: then Pillow has to look. So there is
    nothing in such a header that another reader could take another way. Pillow tells the size of any, but takes as long
    for it as hashing a small picture takes.
    """
    at, size = 2, None
    while at + _SIZE.size <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        length, precision, height, width, colours = _SIZE.unpack_from(content, at)
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            if size is not None or precision != 8 or colours not in (1, 3) or 0 in (width, height):
                return None
            size = width, height
        elif marker not in _PASSED or content.startswith(_NOT_PLAIN, at + 4):
            return None
        if length < 2:
            return None
        at += 2 + length
    return None


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP's canvas; None where the header is not one (RFC 9649, section 2)."""
    chunk, head = content[12:16], content[20:30]
    if len(head) < 10:
        return None
    if chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    return None
