"""Hash kinds. A new one is a file here, a line in `HASHERS` (and `RECIPES`) and a file of test vectors.

Values are `HASHERS[kind].width` bytes inside an index and text in canonical form everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

from hashweir.hashing import exact, pdq, tlsh
from hashweir.model import TURNS, AnyForm, Kind, QueryForm
from hashweir.ports import Hasher

HASHERS: Final[Mapping[Kind, Hasher]] = MappingProxyType(
    {
        "pdq": pdq.Pdq(),
        "tlsh": tlsh.Tlsh(),
        "sha256": exact.Digest("sha256", 32),
        "md5": exact.Digest("md5", 16),
        "text": exact.Digest("text", 32),
    }
)

RECIPES: Final[Mapping[tuple[Kind, AnyForm], str]] = MappingProxyType(
    {
        ("pdq", "canonical"): pdq.RECIPE,
        **{("pdq", form): f"pdq/{form}/1" for form in get_args(QueryForm)},
        ("tlsh", "raw"): tlsh.RAW_RECIPE,
        ("tlsh", "normal"): tlsh.NORMAL_RECIPE,
        ("text", "normal"): exact.TEXT_RECIPE,
        ("sha256", "canonical"): exact.SHA256_RECIPE,
        ("md5", "canonical"): exact.MD5_RECIPE,
    }
)
"""The current recipe of each form of a kind; it travels with every fingerprint and entry."""
DIHEDRAL_RECIPES: Final[Mapping[tuple[Kind, AnyForm], str]] = MappingProxyType(
    {("pdq", turn): f"pdq/dihedral-{turn}/1" for turn in TURNS}
)
"""Of turns as other tools make them (`pdq.dihedral`). They are shown, and never looked up."""


def parse(kind: Kind, text: str) -> bytes:
    """Bytes of a hash text in any accepted spelling. Raises InputError(bad_value)."""
    return HASHERS[kind].parse(text)


def show(kind: Kind, value: bytes) -> str:
    """The canonical text form of a value of `HASHERS[kind].width` bytes."""
    return HASHERS[kind].show(value)
