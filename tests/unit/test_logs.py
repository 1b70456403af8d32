"""Laws of the logs: events and keys from a closed list, and nothing sensitive on any way out."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import hashweir
from hashweir.errors import InputError
from hashweir.logs import EVENTS, quiet, setup

SOURCE = Path(hashweir.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
SENSITIVE = {"content", "uri", "url", "value", "hash", "body", "text", "fingerprint", "account", "headers", "password"}
CANARY = "https://canary.example/secret-7f3a"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in the source: `log.info(...)`, `self._log.error(...)`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if node.func.attr in LEVELS and name.strip("_") in ("log", "logger"):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def test_every_event_in_the_source_is_listed_with_its_keys() -> None:
    """A log call names a listed event and passes listed keys only."""
    wrong = []
    for where, call in calls():
        first = call.args[0] if call.args else None
        if not isinstance(first, ast.Constant) or first.value not in EVENTS:
            wrong.append(f"{where}: not a listed event")
            continue
        given = {word.arg for word in call.keywords if word.arg is not None}
        if extra := given - set(EVENTS[first.value]):
            wrong.append(f"{where}: {first.value} has no {sorted(extra)}")
    assert not wrong


def test_every_event_is_well_named_and_carries_nothing_sensitive() -> None:
    """`stage.what_happened`, and no key that could hold content, a URL, a whole hash or a holder."""
    for event, keys in EVENTS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", event)
        assert not SENSITIVE & set(keys)
        assert len(set(keys)) == len(keys)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_event_level_time_and_listed_keys_only() -> None:
    """A key that is not listed is dropped and named, its value is nowhere."""
    out = io.StringIO()
    log = setup(stream=out)
    log.warning("stream.paused", why="budget", partitions=["uploads-0"], uri=CANARY)
    log.debug("stream.revoked", epoch=1)
    (line,) = lines(out)
    assert {key: line[key] for key in ("event", "level", "why", "partitions", "dropped")} == {
        "event": "stream.paused",
        "level": "warning",
        "why": "budget",
        "partitions": ["uploads-0"],
        "dropped": ["uri"],
    }
    assert line["timestamp"].endswith("Z")
    assert CANARY not in out.getvalue()


def test_a_foreign_exceptions_message_stays_inside() -> None:
    """Type and places are written, also of its causes; of our own errors the sentence too."""
    out = io.StringIO()
    log = setup(stream=out)
    try:
        try:
            raise ValueError(CANARY)
        except ValueError as cause:
            raise InputError("bad_envelope", "no such field") from cause
    except InputError as error:
        log.error("match.failed", topic="uploads", reason="bad_envelope", error=error, exc_info=error)
    (line,) = lines(out)
    assert line["error"] == "InputError(bad_envelope): no such field"
    assert any("caused by ValueError" in place for place in line["exception"])
    assert any("test_a_foreign_exceptions_message_stays_inside" in place for place in line["exception"])
    assert CANARY not in out.getvalue()


def test_libraries_speak_through_the_same_lines() -> None:
    """What they say by `logging` becomes JSON too, from `warning` on."""
    out = io.StringIO()
    setup(stream=out)
    logging.getLogger("aiokafka").info("chatter")
    logging.getLogger("aiokafka").warning("lost %s", "node-1")
    (line,) = lines(out)
    assert (line["event"], line["logger"], line["message"]) == ("library.said", "aiokafka", "lost node-1")


def test_a_quiet_logger_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """For tests and for values that need one."""
    quiet().critical("stream.stuck", lag=3)
    assert capfd.readouterr() == ("", "")
