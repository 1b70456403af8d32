from __future__ import annotations

import json
from pathlib import Path

import pytest

from hashweir.hashing import exact
from hashweir.model import Kind

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_vectors(kind: Kind) -> None:
    digest = {"sha256": exact.sha256, "md5": exact.md5}[kind]
    for row in json.loads((VECTORS / f"{kind}.json").read_text())["of"]:
        content = bytes.fromhex(row["bytes"])
        assert digest(content).hex() == row["value"]
        assert row["value"] in {one.value for one in exact.fingerprints(content)}
