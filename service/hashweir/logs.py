"""Logs: one JSON object a line on stderr, from a closed list of events and of keys per event.

A key that is not listed for its event is dropped on the way out, and of a foreign exception only its type and
the places are written, never its message: content, URLs and hash values can't reach a log by oversight.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from hashweir.errors import HashweirError

Logger = FilteringBoundLogger

WHERE = ("topic", "partition", "offset")
FAILURE = ("reason", "error", "exc_info")

EVENTS: dict[str, tuple[str, ...]] = {
    # ── process ──
    "service.started": ("version", "role"),
    "service.ready": (),
    "service.signal": ("signal",),
    "service.task_failed": ("task", *FAILURE),
    "service.drain_step": ("step", "seconds"),
    "service.drain_step_failed": ("step", "seconds", *FAILURE),
    "service.stopped": ("exit_code", "seconds"),
    # ── stream ──
    "stream.assigned": ("epoch", "partitions"),
    "stream.revoked": ("epoch", "left_in_flight", "seconds"),
    "stream.paused": ("why", "partitions"),
    "stream.resumed": ("why", "partitions"),
    "stream.poll_failed": FAILURE,
    "stream.commit_failed": ("epoch", *FAILURE),
    "stream.publish_failed": (*WHERE, *FAILURE),
    "stream.lost_range": ("topic", "partition", "first", "after_last", "records"),
    "stream.brake": (*WHERE, "faults", "in_a_row"),
    "stream.stuck": ("topic", "partition", "lag", "seconds"),
    "stream.unreachable": ("address", *FAILURE),
    "stream.reconnected": ("address",),
    "stream.retention_unknown": ("topic", *FAILURE),
    # ── uploads ──
    "match.failed": (*WHERE, "attempt", *FAILURE),
    "match.dead_letter": (*WHERE, "reason", "stage", "attempts"),
    "canary.unsent": FAILURE,
    # ── look-back ──
    "lookback.loaded": ("uploads", "blocks", "seconds"),
    "lookback.refused": ("file", *FAILURE),
    "lookback.not_saved": FAILURE,
    "lookback.failed": FAILURE,
    # ── scan processes ──
    "scan.started": ("processes", "level", "fences", "lacking"),
    "scan.died": ("pid", "why", "exit_code", "signal"),
    "scan.bad_reply": ("pid", "reason"),
    # ── store and followers ──
    "store.unreachable": ("address", *FAILURE),
    "follow.standing": ("standing", "before", "why", "shards_missing"),
    "copy.loaded": ("slots", "seconds"),
    "copy.saved": ("seconds",),
    "copy.refused": FAILURE,
    "copy.not_saved": FAILURE,
    "follow.alarm": ("shard", "reason", "what"),
    # ── sets: who did what ──
    "sets.set_changed": ("set", "what", "principal", "operation", "unapproved"),
    "sets.written": ("set", "principal", "operation", "outcomes", "rejected", "dry_run", "why"),
    "sets.exported": ("set", "principal"),
    # ── anything a library says through the standard `logging` ──
    "library.said": ("logger", "message", "level", "exc_info"),
}
"""`stage.what_happened` and the keys it may carry. Partitions are lists of `topic-partition`."""

STANDARD = ("event", "level", "timestamp", "dropped", "exception")


def _keep_listed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    listed = EVENTS.get(str(event.get("event")), ())
    dropped = [key for key in event if key not in STANDARD and key not in listed and not key.startswith("_")]
    for key in dropped:
        del event[key]
    if dropped:
        event["dropped"] = sorted(dropped)
    return event


def describe(error: BaseException) -> str:
    """What a log line may say of an error: our own sentences whole, of a foreign error its type alone."""
    if isinstance(error, HashweirError):
        return f"{type(error).__name__}({error.reason}): {error}"
    return type(error).__name__


def _places(error: BaseException, trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines += [f"caused by {describe(cause)}", *_places(cause, cause.__traceback__)]
    return lines


def _safe_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    if isinstance(found, tuple) and found[1] is not None:
        event["exception"] = [describe(found[1]), *_places(found[1], found[2])]
    if isinstance(event.get("error"), BaseException):
        event["error"] = describe(event["error"])
    return event


def _from_library(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: logging.LogRecord | None = event.get("_record")
    event["message"] = str(event.get("event", ""))[:500]
    event["event"] = "library.said"
    if record is not None:
        event["logger"] = record.name
        if record.exc_info:
            event["exc_info"] = record.exc_info
    return event


def setup(level: str = "info", stream: TextIO | None = None, levels: Mapping[str, str] | None = None) -> Logger:
    """Send everything to `stream` (stderr) as JSON lines; return the logger that the parts are given.

    `level` is hashweir's own. Libraries speak from `warning` on, or from what `levels` says per logger name.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    finish = [_safe_exception, _keep_listed]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            *finish,
            structlog.processors.JSONRenderer(sort_keys=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.processors.add_log_level, stamp, _from_library],
            processors=[
                *finish,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(sort_keys=False, default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name, wanted in (levels or {}).items():
        logging.getLogger(name).setLevel(wanted.upper())
    logger: Logger = structlog.get_logger()
    return logger


def quiet() -> Logger:
    """A logger that says nothing, for tests and for values that need one."""
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[_say_nothing],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    return logger


def _say_nothing(_: WrappedLogger, __: str, ___: EventDict) -> EventDict:
    raise structlog.DropEvent
