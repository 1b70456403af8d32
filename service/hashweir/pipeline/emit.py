"""A judged upload to outgoing records. Pure: ids and bodies are derived, so a replay writes the same bytes again.

What may differ from one run to the next (times, attempts, worker) travels in headers, never in the body.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from hashweir.canary import is_canary
from hashweir.errors import REASONS
from hashweir.model import DeadLetter, Judged, Message, Record, Upload

LONG_TOPIC = "uploads.long"
"""Where uploads go whose work may take a minute and more, by reference."""
FIRST_SEEN = "first_ms"
"""Header of a relayed upload: when its first record was written, in milliseconds since 1970."""
_encode = msgspec.json.Encoder(order="deterministic").encode


class Emitter:
    """Makes the records of one worker. `versions` are those of hashweir and of the libraries that decode and hash."""

    def __init__(
        self, *, worker: str, versions: dict[str, str], via: str = "live", lane: Literal["main", "long"] = "main"
    ) -> None:
        """`lane` says from which of the two topics of uploads this worker reads."""
        self._versions = versions
        self._fixed = (
            ("worker", worker.encode()),
            ("versions", _encode(versions)),
            ("via", via.encode()),
            ("lane", lane.encode()),
        )

    def messages(self, judged: Judged, upload: Upload, record: Record | None = None) -> list[Message]:
        """The verdict, a match where an active set hit, a dead letter where the record's content is beyond use.

        Of a canary the verdict alone: nobody has to act on it.
        """
        verdict = judged.verdict
        key, body = verdict.id.encode(), _encode(verdict)
        out = [self._message("verdicts", key, body, judged, upload)]
        if is_canary(upload):
            return out
        if verdict.outcome == "match":
            out.append(self._message("matches", key, body, judged, upload))
        reason = dead_letter_reason(judged)
        if reason is not None and record is not None:
            out.append(self._message("dead-letters", key, self._letter(reason, judged, record), judged, upload))
        return out

    def relayed(self, upload: Upload, record: Record) -> Message:
        """The upload once more, for the long topic: as it came, under the identity that its first record gave it."""
        own = (
            ("ce_id", upload.id.encode()),
            ("ce_source", upload.source.encode()),
            (FIRST_SEEN, str(record.timestamp_ms).encode()),
        )
        # Of headers with one name, the last counts: these.
        return Message(topic=LONG_TOPIC, key=upload.id.encode(), value=record.value, headers=(*record.headers, *own))

    def _letter(self, reason: str, judged: Judged, record: Record) -> bytes:
        letter = DeadLetter(
            id=judged.verdict.id,
            source=judged.verdict.source,
            upload=judged.verdict.upload,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            digest=hashlib.sha256(record.value).hexdigest(),
            reason=reason,
            stage=REASONS[reason].stage,
            attempts=judged.attempts,
            versions=self._versions,
        )
        return _encode(letter)

    def _message(self, topic: str, key: bytes, body: bytes, judged: Judged, upload: Upload) -> Message:
        event = {"verdicts": "verdict", "matches": "match", "dead-letters": "dead-letter"}[topic]
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", key),
            ("ce_source", b"hashweir"),
            ("ce_type", f"hashweir.{event}.v1".encode()),
            ("content-type", b"application/json"),
            ("as_of", str(judged.as_of_ms).encode()),
            ("degraded", b"true" if judged.degraded else b"false"),
            ("timings", _encode({stage: round(seconds, 6) for stage, seconds in judged.timings.items()})),
            ("attempts", str(judged.attempts).encode()),
            *self._fixed,
        ]
        trace = {"traceparent": upload.traceparent, "tracestate": upload.tracestate}
        headers += [(name, text.encode()) for name, text in trace.items() if text]
        return Message(topic=topic, key=key, value=body, headers=tuple(headers))


def dead_letter_reason(judged: Judged) -> str | None:
    """The reason for which this upload leaves a dead letter, or None.

    A hit does not take the dead letter away: the content was still beyond use for everything but its exact hashes.
    """
    reasons = (judged.failure, *judged.verdict.checked.values())
    return next((one for one in reasons if one in REASONS and REASONS[one].dead_letter), None)
