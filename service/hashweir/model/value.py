"""What values are built on: their base, bounded texts and numbers, and derived ids."""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

SetName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="name of a set")]
Token = Annotated[str, Meta(min_length=1, max_length=256)]
HexId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$", description="16-byte id as hex")]
HashText = Annotated[str, Meta(min_length=1, max_length=72, description="hash value in its canonical text form")]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every message and core type: immutable, keyword-only, unknown fields are errors.

    msgspec does not inherit `kw_only`, nor does mypy `frozen`: every subclass says both again.
    """


def derive(size: int, *parts: bytes) -> bytes:
    """An id of `size` bytes: BLAKE2b over the parts, each behind its 4-byte big-endian length.

    The lengths keep two different lists of parts from running together. Same parts, same id: on every worker, at
    every replay.
    """
    return hashlib.blake2b(framed(*parts), digest_size=size).digest()


def framed(*parts: bytes) -> bytes:
    """The parts, each behind its 4-byte big-endian length."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])
