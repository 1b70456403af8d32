"""Exact kinds: digests of the bytes (sha256, md5) and of a text's normal form (text)."""

from __future__ import annotations

import hashlib

from hashweir.hashing.spelling import from_hex, to_hex
from hashweir.model import Fingerprint, Kind

SHA256_RECIPE = "sha256/canonical/1"
MD5_RECIPE = "md5/canonical/1"
TEXT_RECIPE = "text/normal/1"


class Digest:
    """An exact kind: lower-case hex, equal or not."""

    def __init__(self, kind: Kind, width: int) -> None:
        """`width` is in bytes."""
        self.kind: Kind = kind
        self.width = width

    def parse(self, text: str) -> bytes:
        """Bytes of a digest in hex of either case. Raises InputError(bad_value)."""
        return from_hex(self.kind, text, self.width)

    def show(self, value: bytes) -> str:
        """Lower-case hex."""
        return to_hex(self.kind, value, self.width)

    def distance(self, a: bytes, b: bytes) -> int:
        """The discrete metric: 0 where equal, else 1. How many bits of a digest differ says nothing."""
        return 0 if a == b else 1


def sha256(content: bytes) -> bytes:
    """SHA-256 of the bytes as they came (32 bytes)."""
    return hashlib.sha256(content).digest()


def md5(content: bytes) -> bytes:
    """MD5 of the bytes as they came (16 bytes). Exchanges still trade in it; it proves nothing alone."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def text_digest(normal: str) -> bytes:
    """SHA-256 of the UTF-8 of a text's normal form (32 bytes)."""
    return hashlib.sha256(normal.encode()).digest()


def fingerprints(content: bytes, digest: bytes | None = None) -> tuple[Fingerprint, Fingerprint]:
    """The sha256 and md5 fingerprints of the bytes as they came; `digest` is the SHA-256 where it is known."""
    if digest is None:
        digest = sha256(content)
    return (
        Fingerprint(kind="sha256", form="canonical", recipe=SHA256_RECIPE, value=digest.hex()),
        Fingerprint(kind="md5", form="canonical", recipe=MD5_RECIPE, value=md5(content).hex()),
    )
