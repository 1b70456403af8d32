"""Every way in which something can fail: one table of reasons and one small tree of exceptions.

A *reason* is the same word in the exception, the log line, the metric label, the verdict and the dead letter.

    HashweirError
    ├── InputError         what was handed in can't be used (row, record, file, request); the caller mends it
    ├── ConfigError        a configuration key is wrong or missing (exit 2)
    ├── Refused            policy forbids it: not allowed, not approved, does not exist (exit 1)
    └── Unreachable        a dependency does not answer within its bounded wait (exit 4)
        └── OutcomeUnknown the write may or may not have happened: repeat it under the same operation id
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Klass = Literal["input", "fault"]
Stage = Literal["ingest", "fetch", "scan", "lookup", "decide", "sets", "store", "stream", "config", "lookback"]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one reason code means.

    `klass` is `input` (normal: the world sends such things) or `fault` (ours: somebody is alerted);
    `dead_letter` says whether an upload that ends for this reason also leaves a dead letter.
    """

    klass: Klass
    stage: Stage
    dead_letter: bool
    help: str


REASONS: dict[str, Reason] = {
    # ── uploads: the envelope ──
    "empty_value": Reason("input", "ingest", True, "the record has no content"),
    "bad_envelope": Reason("input", "ingest", True, "the JSON does not fit the upload schema"),
    "unknown_content_type": Reason(
        "input", "ingest", True, "nothing here decodes it; PDF needs the extra `pdf`, HEIC `heic`"
    ),
    "too_large": Reason("input", "ingest", False, "the content is over the inline size limit"),
    "bad_fingerprint": Reason("input", "ingest", True, "a fingerprint has the wrong kind, length or alphabet"),
    "unreadable": Reason("input", "fetch", False, "the file can't be opened or read"),
    "not_allowed_uri": Reason("input", "fetch", False, "the address is none that content may be fetched from"),
    "not_found": Reason("input", "fetch", False, "there is nothing at the address"),
    "size_mismatch": Reason("input", "fetch", False, "the content is not as long as the upload says"),
    "digest_mismatch": Reason("input", "fetch", False, "the content is not the one whose SHA-256 the upload names"),
    "over_file_limit": Reason("input", "fetch", False, "the content by reference is over the file size limit"),
    "no_media_source": Reason("input", "fetch", False, "content by reference is not enabled here"),
    # ── uploads: decoding and hashing ──
    "undecodable": Reason("input", "scan", True, "the bytes are nothing that an allowed decoder reads"),
    "invalid_utf8": Reason("input", "scan", True, "the text is not valid UTF-8"),
    "too_many_pixels": Reason("input", "scan", False, "the picture is over the pixel, side or ratio limit"),
    "blank": Reason("input", "scan", False, "the document holds no text and no picture that could be hashed"),
    "encrypted": Reason("input", "scan", False, "the document opens with a password only"),
    "too_many_pages": Reason("input", "scan", False, "the document has more pages than are read; those were hashed"),
    "too_many_objects": Reason("input", "scan", False, "a page has more objects than are read"),
    "truncated": Reason("input", "scan", False, "the file is cut short or damaged; what could be decoded was hashed"),
    "partial": Reason("input", "scan", False, "only a part was checked: the time ran out, or there is more than one"),
    "too_long": Reason("input", "scan", False, "the video is longer than the limit"),
    "too_many_streams": Reason("input", "scan", False, "the video has more streams than the limit"),
    "no_video_stream": Reason("input", "scan", False, "the file has no video stream, or no frame in it"),
    "codec_not_allowed": Reason("input", "scan", False, "the video's codec is none of those that are decoded here"),
    "no_video_decoder": Reason("input", "scan", False, "videos are not decoded here: install the `video` extra"),
    "low_quality": Reason("input", "scan", False, "PDQ quality is under the set's floor: too little structure"),
    "too_short": Reason("input", "scan", False, "the text is too short or too uniform for TLSH"),
    "scan_memory": Reason("input", "scan", True, "decoding needed more memory than a scan process may use"),
    "scan_died": Reason("fault", "scan", True, "the scan process died twice on this upload"),
    "scan_deadline": Reason("fault", "scan", True, "scanning was stopped twice at its deadline"),
    "scan_bad_reply": Reason("fault", "scan", True, "the scan process answered what its schema forbids"),
    # ── uploads: judging ──
    "no_active_set": Reason("input", "decide", False, "no active set holds hashes for this media class"),
    "shards_missing": Reason(
        "input", "decide", False, "this process follows only a part of the shards, as `shards.only` says"
    ),
    "not_provided": Reason("input", "decide", False, "the uploader sent no fingerprint of this kind"),
    "internal_error": Reason("fault", "decide", True, "an unexpected error; the log has its traceback"),
    # ── sets ──
    "bad_row": Reason("input", "sets", False, "the row or line can't be parsed"),
    "unknown_kind": Reason("input", "sets", False, "the hash kind is not one that hashweir knows"),
    "bad_value": Reason("input", "sets", False, "the hash value has the wrong length or alphabet"),
    "bad_field": Reason("input", "sets", False, "a field is out of range or too long"),
    "duplicate_row": Reason("input", "sets", False, "the same hash stands earlier in the same file"),
    "set_not_found": Reason("input", "sets", False, "there is no set of this name"),
    "set_exists": Reason("input", "sets", False, "a set of this name exists already"),
    "entry_not_found": Reason("input", "sets", False, "the set holds no such entry"),
    "not_allowed": Reason("input", "sets", False, "this principal may not do this alone"),
    "operation_too_large": Reason("input", "sets", False, "an operation holds 1 to 256 changes"),
    "set_changed": Reason("input", "sets", False, "the set was changed meanwhile; read it and repeat"),
    # ── dependencies and configuration ──
    "store_unreachable": Reason("fault", "store", False, "Redis/Valkey does not answer"),
    "store_not_created": Reason("fault", "store", False, "the store is empty: run `hashweir check --create`"),
    "store_layout": Reason("fault", "store", False, "the store was made by another layout version"),
    "store_refused": Reason("fault", "store", False, "Redis/Valkey refused the command"),
    "store_changed": Reason("input", "store", False, "it is no longer as it was seen: look again and repeat"),
    "store_rewound": Reason(
        "fault", "store", False, "Redis/Valkey lost changes that were seen: `hashweir sets reconcile`"
    ),
    "store_damaged": Reason(
        "fault", "store", False, "a chunk in Redis/Valkey does not fit its sum: `hashweir sets repair`"
    ),
    "store_epoch": Reason("fault", "store", False, "a shard has a new epoch: made anew, or reconciled"),
    "copy_damaged": Reason("fault", "store", False, "memory of this process changed by itself; it was read again"),
    "saved_damaged": Reason(
        "fault", "store", False, "the saved copy of the last state can't be used: all is read again"
    ),
    "saved_layout": Reason(
        "input", "store", False, "the saved copy of the last state is of another version or machine: all is read again"
    ),
    "saved_foreign": Reason(
        "input", "store", False, "the saved copy of the last state is of another store or other shards"
    ),
    "saved_in_use": Reason("fault", "store", False, "another worker keeps its copy of the state in the same folder"),
    "saved_unwritable": Reason("fault", "store", False, "the folder for a copy of the state can't be read or written"),
    "outcome_unknown": Reason("fault", "store", False, "too few replicas confirmed: repeat with the same id"),
    "stream_unreachable": Reason("fault", "stream", False, "Kafka does not answer"),
    "stream_refused": Reason("fault", "stream", False, "Kafka refused the request"),
    "stream_topic_missing": Reason("fault", "stream", False, "a topic is missing: run `hashweir check --create`"),
    "stream_lost_range": Reason("fault", "stream", False, "records were deleted before they were read"),
    "stream_stuck": Reason("fault", "stream", False, "assigned and behind, but no record arrives"),
    "stream_fenced": Reason("fault", "stream", False, "another worker runs under the same instance id"),
    "ring_damaged": Reason("fault", "lookback", False, "a saved part of the look-back's ring can't be used"),
    "ring_in_use": Reason("fault", "lookback", False, "another worker keeps its look-back in the same folder"),
    "ring_unwritable": Reason("fault", "lookback", False, "the look-back's folder can't be read or written"),
    "metrics_unreachable": Reason("fault", "config", False, "a worker's metrics page does not answer"),
    "shards_mismatch": Reason("input", "config", False, "`shards.only` counts more or fewer shards than the store has"),
    "bad_config": Reason("input", "config", False, "a configuration key is unknown or its value is wrong"),
}


class HashweirError(Exception):
    """Base of all errors that hashweir raises on purpose: a reason code and a sentence for a person."""

    def __init__(self, reason: str, message: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason code {reason!r}")
        self.reason = reason
        super().__init__(message or REASONS[reason].help)


class InputError(HashweirError):
    """What was handed in can't be used; nothing else is lost by it."""


class ConfigError(HashweirError):
    """A configuration key is unknown, missing or out of range."""

    def __init__(self, message: str, reason: str = "bad_config") -> None:
        super().__init__(reason, message)


class Refused(HashweirError):
    """The request is well formed but policy or state forbids it."""


class Unreachable(HashweirError):
    """A dependency did not answer within its bounded wait; the message names its address."""


class OutcomeUnknown(Unreachable):
    """The write may have happened. Repeating it under the same operation id is always safe."""
