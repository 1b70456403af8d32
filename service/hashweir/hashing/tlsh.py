"""TLSH, a locality-sensitive hash of byte strings: 128 buckets, 1-byte checksum, 35 bytes.

Source: https://github.com/trendmicro/tlsh; the reference is `py-tlsh`, which imports as `tlsh`.
A value's bytes are, as in its text: checksum, length, quartile ratios, 32 bytes of buckets.
"""

from __future__ import annotations

import tlsh as reference

from hashweir.errors import InputError
from hashweir.hashing.spelling import clip, from_hex, to_hex
from hashweir.model import Kind

RAW_RECIPE = "tlsh/raw/1"
"""Of the UTF-8 bytes as they came, as other tools hash."""
NORMAL_RECIPE = "tlsh/normal/1"
"""Of one byte per character of the normal form (`hashing.text`)."""

_VARIANTS = {30: "48 buckets", 74: "a 3-byte checksum", 134: "256 buckets", 138: "256 buckets"}
"""Digits after `T1` of the variants that other builds of TLSH write."""


class Tlsh:
    """Text, byte form and distance of TLSH values: `T1` and 70 upper-case hex digits."""

    kind: Kind = "tlsh"
    width = 35

    def parse(self, text: str) -> bytes:
        """Bytes of 70 hex digits of either case, `T1` before them or not.

        Raises InputError(bad_value) for anything else; `TNULL` and other variants of TLSH are named as such.
        """
        upper = text.upper()
        if upper == "TNULL":
            raise InputError("bad_value", "TNULL: the text was too short or too uniform for a TLSH value")
        digits = upper.removeprefix("T1")
        if variant := _VARIANTS.get(len(digits)):
            raise InputError("bad_value", f"{variant}: only 128 buckets with 1 byte of checksum are read")
        if len(digits) != 2 * self.width:
            raise InputError("bad_value", f"a tlsh value is T1 and 70 hexadecimal digits, got {clip(text)}")
        return from_hex(self.kind, digits, self.width)

    def show(self, value: bytes) -> str:
        """`T1` and 70 upper-case hex digits."""
        return "T1" + to_hex(self.kind, value, self.width).upper()

    def distance(self, a: bytes, b: bytes) -> int:
        """TLSH's `diffxlen`: the length byte is left out, for lengths are compared on their own.

        Not a metric: the triangle inequality does not hold, and values that differ only in length have 0.
        """
        return int(reference.diffxlen(self.show(a), self.show(b)))


def fingerprint(content: bytes) -> bytes | None:
    """TLSH of a byte string: 35 bytes, or None where it is under 50 bytes or too uniform (TNULL)."""
    text: str = reference.hash(content)
    if text in ("TNULL", ""):
        return None
    return bytes.fromhex(text.removeprefix("T1"))
