"""A record to an upload, or to a reason why it can't be one. Pure.

Headers never cost an upload its scan: one that can't be read is passed over and noted. Only the value can be
beyond use.
"""

from __future__ import annotations

import re

import msgspec

from hashweir.errors import InputError
from hashweir.hashing import HASHERS, RECIPES
from hashweir.model import (
    SURFACES,
    AnyForm,
    Fingerprint,
    GivenFingerprint,
    Kind,
    Record,
    Upload,
    UploadMessage,
)

UPLOAD_JSON = "application/vnd.hashweir.upload+json"
MAX_HEADER_CHARS = 512
"""Longer ids and tokens are passed over: they are echoed in every verdict."""
DEFAULT_FORM: dict[Kind, AnyForm] = {
    "pdq": "canonical",
    "tlsh": "raw",
    "text": "normal",
    "sha256": "canonical",
    "md5": "canonical",
}
_decoder = msgspec.json.Decoder(UploadMessage)
_MEDIA_TYPE = re.compile(r"^[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}$")


class Unreadable(Exception):
    """The value is beyond use. `upload` still has the envelope, so that a verdict can name it."""

    def __init__(self, upload: Upload, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.upload = upload
        self.reason = reason
        self.detail = detail


def read(record: Record, default_source: str, inline_bytes: int) -> Upload:
    """The upload in a record. Raises Unreadable with a reason.

    `default_source` stands in for a missing `ce_source`; a missing `ce_id` is made from topic, partition, offset;
    a value over `inline_bytes` is refused (`too_large`).
    """
    envelope, content_type = _envelope(record, default_source)
    if not record.value:
        raise Unreadable(envelope, "empty_value", "the record's value is empty")
    if len(record.value) > inline_bytes:
        detail = f"{len(record.value)} bytes inline, the limit is {inline_bytes}; send a reference instead"
        raise Unreadable(envelope, "too_large", detail)
    if content_type != UPLOAD_JSON:
        return _with(envelope, media_type=content_type, content=record.value)
    try:
        message = _decoder.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(envelope, "bad_envelope", str(error)) from None
    return _from_message(envelope, message)


def _from_message(envelope: Upload, message: UploadMessage) -> Upload:
    if (message.text is not None) + bool(message.fingerprints) + (message.uri is not None) != 1:
        detail = "give exactly one of `text`, `fingerprints` and `uri`"
        raise Unreadable(envelope, "bad_envelope", detail)
    if message.text == "":
        raise Unreadable(envelope, "empty_value", "`text` is empty")
    if message.text is not None:
        return _with(envelope, media_type="text/plain", content=message.text.encode())
    media_type = _media_type(message.media_type)
    if message.uri is not None:
        return _with(envelope, media_type=media_type, uri=message.uri, size=message.size, sha256=message.sha256)
    try:
        given = tuple(_fingerprint(one) for one in message.fingerprints)
    except InputError as error:
        raise Unreadable(envelope, "bad_fingerprint", str(error)) from None
    return _with(envelope, media_type=media_type, fingerprints=given)


def _fingerprint(given: GivenFingerprint) -> Fingerprint:
    hasher = HASHERS[given.kind]
    form = given.form or DEFAULT_FORM[given.kind]
    if (given.kind, form) not in RECIPES:
        raise InputError("bad_fingerprint", f"there is no form `{form}` of {given.kind}")
    return Fingerprint(
        kind=given.kind,
        form=form,
        recipe=given.recipe or RECIPES[given.kind, form],
        value=hasher.show(hasher.parse(given.value)),
        quality=given.quality,
        length=given.length,
        time_s=given.time_s,
        until_s=given.time_s if given.until_s is None else given.until_s,
        frames=given.frames or (None if given.time_s is None else 1),
    )


def _envelope(record: Record, default_source: str) -> tuple[Upload, str | None]:
    notes: list[str] = []
    texts: dict[str, str] = {}
    for name, raw in record.headers:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = ""
        if text and len(text) <= MAX_HEADER_CHARS and text.isprintable():
            texts[name.lower()] = text
        elif name.lower().startswith("ce_"):
            notes.append("bad_header")
    surface = texts.get("ce_surface")
    if surface is not None and surface not in SURFACES:
        notes.append("unknown_surface")
        surface = None
    envelope = Upload(
        source=texts.get("ce_source", default_source),
        id=texts.get("ce_id", f"{record.topic}-{record.partition}-{record.offset}"),
        account=texts.get("ce_account"),
        surface=surface,
        traceparent=texts.get("traceparent"),
        tracestate=texts.get("tracestate"),
        notes=tuple(sorted(set(notes))),
    )
    return envelope, _media_type(texts.get("content-type"))


def _media_type(text: str | None) -> str | None:
    """`type/subtype` in lower case without parameters; None where it is missing or malformed."""
    bare = (text or "").split(";", 1)[0].strip().lower()
    return bare if _MEDIA_TYPE.match(bare) else None


def _with(envelope: Upload, **fields: object) -> Upload:
    return msgspec.structs.replace(envelope, **fields)
