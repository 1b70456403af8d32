"""What lies in hashsets/: the page tells what the code does, and no real hash gets in."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import jsonschema
import pytest

from hashweir.errors import REASONS
from hashweir.hashing import HASHERS
from hashweir.model import Kind, Set
from hashweir.sets.read import (
    COLUMNS,
    FILE_FORMS,
    FOREIGN_KINDS,
    KIND_NAMES,
    MAX_ITEM_BYTES,
    MAX_LABELS,
    MAX_LINE_BYTES,
    MAX_NOTE,
    Reader,
    schema,
)
from hashweir.sets.validate import BULK, MAX_LABEL, Change, Validator

HASHSETS = Path(__file__).resolve().parents[3] / "hashsets"
DEMO = sorted((HASHSETS / "demo").iterdir())
INTO = Set(name="demo", number=1, owner="team", origin="own-review")


def synthetic() -> set[tuple[Kind, bytes]]:
    return {
        (kind, hashlib.sha512(f"hashweir demo {kind} {n}".encode()).digest()[: hasher.width])
        for kind, hasher in HASHERS.items()
        for n in range(1_000)
    }


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.name)
def test_demo_sets_are_clean_and_made_up(path: Path) -> None:
    validator = Validator(INTO, principal="tester", now_ms=0)
    with path.open("rb") as file:
        changes = [change for _, change in validator.check(Reader(file))]
    assert validator.report().rejected == {}
    made_up = synthetic()
    for change in changes:
        assert isinstance(change, Change)
        assert (change.entry.kind, change.value) in made_up, "only synthetic hashes may be committed"


def test_nothing_else_lies_there() -> None:
    below = {path.relative_to(HASHSETS).parts[0] for path in HASHSETS.rglob("*")}
    assert below == {"README.md", "FORMAT.md", "entry.schema.json", "demo"}
    # No hash hides in the prose: examples are cut short.
    for page in ("README.md", "FORMAT.md"):
        assert not re.search(r"[0-9a-fA-F]{32}", (HASHSETS / page).read_text())


def test_the_schema_file_is_the_types() -> None:
    """Where this fails, write `json.dumps(schema(), indent=2, ensure_ascii=False)` and a newline into the file."""
    written = (HASHSETS / "entry.schema.json").read_text(encoding="utf-8")
    assert written == json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    for line in (HASHSETS / "demo" / "texts.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schema())


def test_the_page_names_every_field_reason_and_limit() -> None:
    page = (HASHSETS / "FORMAT.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    aliases = KIND_NAMES.keys()
    assert named >= {*COLUMNS, *aliases, *(form for form in ("raw", "normal"))}
    for form in FILE_FORMS:
        assert f"--form {form}" in page
    for limit in (MAX_ITEM_BYTES, MAX_LABELS, MAX_LABEL, MAX_NOTE, BULK, f"{MAX_LINE_BYTES:,}"):
        assert re.search(rf"\b{limit}\b", page), limit
    reasons = set(re.findall(r"^\| `([a-z_]+)` \|", page.partition("## What is refused")[2], re.MULTILINE))
    assert reasons <= REASONS.keys()
    assert len(reasons) == 7
    assert named & FOREIGN_KINDS.keys() >= {"raw_text", "url", "vpdq"}
