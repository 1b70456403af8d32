"""Search over hash values, one index per kind and form. A new kind is one line in `INDEXES`.

An index knows values and rows and nothing else; what a row means is its owner's business (`shards.known`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from hashweir.index.exact import ExactIndex
from hashweir.index.sliced import SlicedPdq
from hashweir.index.tlsh import NativeTlsh
from hashweir.model import Kind
from hashweir.ports import Index

INDEXES: Final[Mapping[Kind, Callable[[], Index]]] = MappingProxyType(
    {
        "pdq": SlicedPdq,
        "tlsh": NativeTlsh,
        "sha256": partial(ExactIndex, 32),
        "md5": partial(ExactIndex, 16),
        "text": partial(ExactIndex, 32),
    }
)
"""What makes an empty index for each kind."""
