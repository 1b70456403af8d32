"""Documents and schemas that are generated stay in step with what they are generated from."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from hashweir.cli.documents import DOCUMENTS, Document
from hashweir.cli.schema import MESSAGES, text
from hashweir.model import Verdict

SERVICE = Path(__file__).resolve().parents[2] / "service"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_generated_page_is_in_step(name: Document) -> None:
    """After a change: `hashweir check --document NAME`, into the page of that name in capitals under `service/`."""
    assert (SERVICE / f"{name.upper()}.md").read_text(encoding="utf-8") == DOCUMENTS[name]()


def test_every_schema_is_kept_and_in_step() -> None:
    """`hashweir schema --write service/schemas` after a change; no schema of a message that is gone."""
    kept = {path.stem: path.read_text(encoding="utf-8") for path in (SERVICE / "schemas").glob("*.json")}
    assert kept == {name: text(name) for name in MESSAGES}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_schema_is_a_schema(name: str) -> None:
    """Valid by its own meta-schema, so that a consumer can generate code from it."""
    jsonschema.Draft202012Validator.check_schema(json.loads(text(name)))


def test_a_verdict_fits_its_schema_and_nothing_else_does() -> None:
    """What the encoder writes is what the schema says; a key too many is refused."""
    verdict = Verdict(
        id="0" * 32,
        source="s",
        upload="u",
        sha256=None,
        media_type=None,
        media_class=None,
        surface=None,
        account=None,
        outcome="unscanned",
        action="none",
        reason="undecodable",
        checked={"pdq": "undecodable"},
        notes=(),
        hits=(),
        hits_total=0,
        fingerprints=(),
        sets={},
        position="0" * 32,
    )
    validator = jsonschema.Draft202012Validator(json.loads(text("verdict")))
    body = json.loads(msgspec.json.encode(verdict))
    validator.validate(body)
    assert not validator.is_valid(body | {"unknown": 1})
