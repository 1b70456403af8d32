"""A video by reference, from a record to its verdict, through real scan processes: found, told of, or refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hashweir.adapters.file_media import FileMedia
from hashweir.adapters.sandbox import ProcessSandbox
from hashweir.model import Judged, Limits, Record, Upload
from hashweir.pipeline import ingest
from hashweir.pipeline.match import Matcher
from hashweir.ports import View
from tests.clips import FAST, NAMES, clip, encode, scenes
from tests.pictures import encode as encode_picture
from tests.pictures import photo
from tests.unit.pipeline.views import ListView, make_entry, make_set

KNOWN = "00000000000000aa"


class Fixed:
    """What is known, as a list that a test fills."""

    def __init__(self) -> None:
        self.held = ListView([make_entry("ab" * 32)], {"own": make_set()})

    def view(self) -> View:
        return self.held


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    made = ProcessSandbox(
        scan="hashweir.pipeline.scan:prepare",
        count=2,
        limits=Limits(),
        deadline_s={"image": 20, "video": 60},
        memory_bytes=2**30,
    )
    await made.start()
    yield made
    await made.stop()


class World:
    def __init__(self, root: Path, sandbox: ProcessSandbox) -> None:
        self.root, self.known = root, Fixed()
        self.threads = ThreadPoolExecutor(1)
        self.matcher = Matcher(
            sandbox=sandbox,
            known=self.known,
            usable_view=self.view,
            threads=self.threads,
            media=FileMedia(root, 10**7),
        )

    async def view(self) -> View:
        return self.known.held

    async def judge(self, name: str, content: bytes, **claims: object) -> Judged:
        (self.root / name).write_bytes(content)
        message = {"uri": f"file://{self.root}/{name}", "media_type": "video/mp4", "size": len(content)} | claims
        record = Record(
            topic="uploads",
            partition=0,
            offset=0,
            timestamp_ms=0,
            value=json.dumps(message).encode(),
            headers=(("content-type", ingest.UPLOAD_JSON.encode()), ("ce_id", name.encode())),
        )
        return await self.matcher.match(ingest.read(record, "test", 2**20))


async def test_a_known_video_is_found_by_reference(tmp_path: Path, sandbox: ProcessSandbox) -> None:
    """Another encoding of it matches with shares and times; a longer one that only has it inside is told as such."""
    world = World(tmp_path, sandbox)
    first = await sandbox.scan(Upload(source="s", id="u", content=clip("h264")))
    frames = [one for one in first.fingerprints if one.time_s is not None]
    entries = [make_entry(one.value, number=n, item=KNOWN) for n, one in enumerate(frames, start=1)]
    world.known.held = ListView(entries, {"own": make_set()})
    content = clip("vp9")
    verdict = (await world.judge("a.webm", content, sha256=hashlib.sha256(content).hexdigest())).verdict
    assert (verdict.outcome, verdict.action) == ("match", "hold")
    (hit,) = verdict.hits
    assert (hit.share_upload, hit.share_known) == (1.0, 1.0)
    assert hit.times[0][0] == 0

    inside = encode(scenes(NAMES[:6], (320, 240), 45), options=FAST)
    verdict = (await world.judge("b.mp4", inside)).verdict
    (hit,) = verdict.hits
    assert (verdict.outcome, hit.state) == ("clear", "below_share")
    assert hit.share_known is not None
    assert hit.share_upload is not None
    assert hit.share_upload < 0.8 <= hit.share_known


async def test_what_is_not_what_it_claims_is_not_judged(tmp_path: Path, sandbox: ProcessSandbox) -> None:
    """Another content, a missing file, a foreign address: unscanned, each with its reason."""
    world = World(tmp_path, sandbox)
    for claims, reason in (
        ({"sha256": "0" * 64}, "digest_mismatch"),
        ({"size": 1}, "size_mismatch"),
        ({"uri": "file:///etc/hostname"}, "not_allowed_uri"),
        ({"uri": f"file://{tmp_path}/none"}, "not_found"),
    ):
        verdict = (await world.judge("a.mp4", clip(), **claims)).verdict
        assert (verdict.outcome, verdict.reason) == ("unscanned", reason)


async def test_videos_leave_a_process_to_pictures(tmp_path: Path, sandbox: ProcessSandbox) -> None:
    """However many videos wait, a picture is scanned at once."""
    videos = [asyncio.create_task(sandbox.scan(Upload(source="s", id=str(n), content=clip("h264")))) for n in range(12)]
    picture = await sandbox.scan(Upload(source="s", id="p", content=encode_picture(photo(), "JPEG")))
    assert picture.checked["pdq"] == "ok"
    assert not all(one.done() for one in videos)
    assert {one.checked["pdq"] for one in await asyncio.gather(*videos)} == {"ok"}
