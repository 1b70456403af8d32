"""Laws of ingest: any bytes give an upload or a reason, and headers never cost a scan."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import REASONS
from hashweir.model import Record, Upload
from hashweir.pipeline.ingest import UPLOAD_JSON, Unreadable, read

INLINE = 1 << 20
JSON_TYPE = ("content-type", UPLOAD_JSON.encode())


def record(value: bytes, *headers: tuple[str, bytes]) -> Record:
    return Record(topic="hashweir.uploads", partition=2, offset=7, timestamp_ms=1, value=value, headers=headers)


def take(value: bytes, *headers: tuple[str, bytes]) -> Upload:
    return read(record(value, *headers), "kafka:c1", INLINE)


def attempt(value: bytes, *headers: tuple[str, bytes]) -> tuple[Upload, str | None]:
    try:
        return take(value, *headers), None
    except Unreadable as error:
        return error.upload, error.reason


def reason_of(value: bytes, *headers: tuple[str, bytes]) -> str:
    with pytest.raises(Unreadable) as caught:
        take(value, *headers)
    return caught.value.reason


@given(st.binary(max_size=300), st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=600)), max_size=6))
def test_every_record_is_an_upload_or_a_reason(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Whatever a record holds, there is an id to answer under and either content or a reason of the table."""
    upload, reason = attempt(value, *headers)
    assert reason is None or reason in REASONS
    assert upload.id
    assert upload.source


@given(st.binary(max_size=200))
def test_broken_json_is_named(value: bytes) -> None:
    """No bytes under the JSON content type raise anything but a reason."""
    assert attempt(value, JSON_TYPE)[1] in {None, "empty_value", "bad_envelope", "bad_fingerprint"}


def test_missing_headers_are_derived() -> None:
    """Without headers, id and source come from where the record lay."""
    upload = take(b"x")
    assert (upload.id, upload.source, upload.media_type) == ("hashweir.uploads-2-7", "kafka:c1", None)


def test_headers_are_read() -> None:
    """Ids, account and surface are taken over; the content type loses its parameters."""
    upload = take(
        b"x",
        ("ce_id", b"u1"),
        ("ce_source", b"app"),
        ("ce_account", b"t0k"),
        ("ce_surface", b"banner"),
        ("content-type", b"Text/Plain; charset=utf-8"),
    )
    assert (upload.id, upload.source, upload.account) == ("u1", "app", "t0k")
    assert (upload.surface, upload.media_type, upload.content) == ("banner", "text/plain", b"x")


def test_bad_headers_are_passed_over() -> None:
    """A header beyond use is noted; the content is kept."""
    upload = take(b"x", ("ce_id", b"\xff"), ("ce_account", b"a" * 513), ("ce_surface", b"moon"))
    assert upload.notes == ("bad_header", "unknown_surface")
    assert (upload.content, upload.account, upload.surface) == (b"x", None, None)


def test_sizes() -> None:
    """Empty and over-long values are named; the limit itself is allowed."""
    assert reason_of(b"") == "empty_value"
    assert reason_of(b"x" * (INLINE + 1)) == "too_large"
    assert take(b"x" * INLINE).content is not None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "bad_envelope"),
        ({"text": "a", "uri": "s3://b/c"}, "bad_envelope"),
        ({"text": "a", "colour": 1}, "bad_envelope"),
        ({"text": 5}, "bad_envelope"),
        ({"text": ""}, "empty_value"),
        ([1], "bad_envelope"),
        ({"fingerprints": [{"kind": "pdq", "value": "0f"}]}, "bad_fingerprint"),
        ({"fingerprints": [{"kind": "pdq", "value": "zz" * 32}]}, "bad_fingerprint"),
        ({"fingerprints": [{"kind": "pdq", "value": "0f" * 32, "form": "raw"}]}, "bad_fingerprint"),
        ({"fingerprints": [{"kind": "dna", "value": "0f" * 32}]}, "bad_envelope"),
        ({"fingerprints": [{"kind": "md5", "value": "0f" * 16}] * 1025}, "bad_envelope"),
    ],
)
def test_bad_messages(message: object, reason: str) -> None:
    """Each way to break the schema has its reason."""
    assert reason_of(json.dumps(message).encode(), JSON_TYPE) == reason


def test_three_forms() -> None:
    """Text becomes content; fingerprints stand alone in canonical spelling; a reference keeps its address."""
    text = take(json.dumps({"text": "häl"}).encode(), JSON_TYPE)
    assert (text.media_type, text.content) == ("text/plain", "häl".encode())
    given_ = take(
        json.dumps({"fingerprints": [{"kind": "pdq", "value": "0F" * 32, "quality": 90}]}).encode(), JSON_TYPE
    )
    assert given_.content is None
    assert [(one.value, one.form, one.quality) for one in given_.fingerprints] == [("0f" * 32, "canonical", 90)]
    assert take(json.dumps({"uri": "s3://b/c"}).encode(), JSON_TYPE).uri == "s3://b/c"
