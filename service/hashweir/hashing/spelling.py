"""How hash values are spelled as hexadecimal text; shared by every kind."""

from __future__ import annotations

from hashweir.errors import InputError
from hashweir.model import Kind


def from_hex(kind: Kind, text: str, width: int) -> bytes:
    """Bytes of exactly 2 x `width` hexadecimal digits of either case, nothing around them.

    `bytes.fromhex` alone would also take blanks between bytes, and give fewer bytes. Raises InputError(bad_value).
    """
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not len(text) == 2 * len(value) == 2 * width:
        raise InputError("bad_value", f"a {kind} value is {2 * width} hexadecimal digits, got {clip(text)}")
    return value


def to_hex(kind: Kind, value: bytes, width: int) -> str:
    """Lower-case hexadecimal text of a value. Raises ValueError where it is not `width` bytes."""
    if len(value) != width:
        raise ValueError(f"a {kind} value is {width} bytes, got {len(value)}")
    return value.hex()


def clip(text: str) -> str:
    """A short, quoted, printable excerpt of a bad value for an error message."""
    return f"{text[:80]!a}{'...' if len(text) > 80 else ''} ({len(text)} characters)"
