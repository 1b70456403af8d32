"""Laws of the spine: always a verdict, never one of an unverified state, and the same bytes again at a replay."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor

import msgspec

from hashweir.model import Fingerprint, FormGroup, Judged, Record, Scan, Upload, Verdict
from hashweir.pipeline.emit import Emitter, dead_letter_reason
from hashweir.pipeline.match import Matcher
from hashweir.ports import Load, View
from tests.unit.pipeline.views import ListView, make_entry, make_set

HASH = "0f" * 32
PDQ = Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value=HASH, quality=100)
SCAN = Scan(
    media_class="image",
    media_type="image/png",
    fingerprints=(PDQ,),
    checked={"pdq": "ok", "sha256": "ok", "md5": "ok"},
    timings={"decode": 0.001, "hash": 0.002},
)
RECORD = Record(topic="hashweir.uploads", partition=0, offset=3, timestamp_ms=5, value=b"abc")


class OneScan:
    """A sandbox that always answers the same."""

    def __init__(self, scan: Scan) -> None:
        self.answer = scan

    async def start(self) -> None: ...

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        return self.answer

    def load(self) -> Load:
        return Load()

    async def stop(self) -> None: ...


class Flickering:
    """What is known, turning doubtful while the first `doubtful` verdicts are being made."""

    def __init__(self, good: ListView, doubtful: int = 0) -> None:
        self.good, self.left, self.asked = good, doubtful, 0

    def view(self) -> View:
        if self.left:
            self.left -= 1
            return ListView(standing="doubtful")
        return self.good

    async def usable(self) -> View:
        self.asked += 1
        return self.good


def judge(upload: Upload, scan: Scan = SCAN, doubtful: int = 0, view: ListView | None = None) -> tuple[Judged, int]:
    known = Flickering(view or ListView([make_entry(HASH)], {"own": make_set()}), doubtful)
    with ThreadPoolExecutor(1) as threads:
        matcher = Matcher(sandbox=OneScan(scan), known=known, usable_view=known.usable, threads=threads)
        return asyncio.run(matcher.match(upload)), known.asked


def test_match_tells_its_stages() -> None:
    """A verdict comes with the seconds that each stage took."""
    judged, _ = judge(Upload(source="s", id="u", content=b"abc"))
    assert judged.verdict.outcome == "match"
    assert set(judged.timings) == {"fetch", "scan_wait", "decode", "hash", "lookup", "decide"}


def test_doubt_discards_the_verdict() -> None:
    """A state that turns doubtful while a verdict is made of it gives none: the upload is judged again."""
    judged, asked = judge(Upload(source="s", id="u", content=b"abc"), doubtful=2)
    assert asked == 3
    assert judged.verdict.outcome == "match"


def test_reference_is_refused_with_a_reason() -> None:
    """Where no media source is wired, a `uri` is unscanned and leaves no dead letter: nothing is broken."""
    judged, _ = judge(Upload(source="s", id="u", uri="s3://b/c"))
    assert (judged.verdict.outcome, judged.verdict.reason) == ("unscanned", "no_media_source")
    assert dead_letter_reason(judged) is None


def test_a_known_file_that_kills_its_scan_is_found() -> None:
    """A file known byte for byte is a match even where scanning it failed, and its dead letter is kept."""
    digest = hashlib.sha256(b"abc").hexdigest()
    dead = Scan(media_class=None, media_type=None, reason="scan_died", attempts=2)
    view = ListView([make_entry(digest, "sha256")], {"own": make_set()})
    judged, _ = judge(Upload(source="s", id="u", content=b"abc"), dead, view=view)
    assert (judged.verdict.outcome, judged.verdict.sha256) == ("match", digest)
    assert dead_letter_reason(judged) == "scan_died"


def test_fingerprints_only() -> None:
    """Given fingerprints are looked up; what was not given was not checked."""
    judged, _ = judge(Upload(source="s", id="u", fingerprints=(PDQ,)))
    assert judged.verdict.outcome == "match"
    assert judged.verdict.checked == {"pdq": "ok", "sha256": "not_provided", "md5": "not_provided"}
    md5 = Fingerprint(kind="md5", form="canonical", recipe="md5/canonical/1", value="ab" * 16)
    judged, _ = judge(Upload(source="s", id="u", media_type="image/png", fingerprints=(md5,)))
    assert (judged.verdict.outcome, judged.verdict.reason) == ("unscanned", "not_provided")


def test_replay_writes_the_same_bytes() -> None:
    """Two runs give the same keys and bodies; times and attempts stay in headers."""
    upload = Upload(source="s", id="u", content=b"abc")
    emitter = Emitter(worker="w", versions={"hashweir": "1"})
    first, second = (emitter.messages(judge(upload)[0], upload, RECORD) for _ in range(2))
    assert [(one.topic, one.key, one.value) for one in first] == [(one.topic, one.key, one.value) for one in second]
    assert [one.topic for one in first] == ["verdicts", "matches"]
    verdict = msgspec.json.decode(first[0].value, type=Verdict)
    assert verdict.id.encode() == first[0].key


def test_dead_letters_hold_a_reference() -> None:
    """Content beyond use gives an unscanned verdict and a dead letter with a digest, never the content."""
    broken = Scan(media_class="image", media_type="image/png", checked={"pdq": "undecodable"}, reason="undecodable")
    upload = Upload(source="s", id="u", content=b"abc")
    judged, _ = judge(upload, broken)
    messages = Emitter(worker="w", versions={}).messages(judged, upload, RECORD)
    assert [one.topic for one in messages] == ["verdicts", "dead-letters"]
    letter = msgspec.json.decode(messages[1].value)
    assert letter["digest"] == hashlib.sha256(b"abc").hexdigest()
    assert (letter["reason"], letter["offset"], letter["stage"]) == ("undecodable", 3, "scan")
    assert b'"abc"' not in messages[1].value
