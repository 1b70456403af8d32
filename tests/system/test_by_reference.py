"""Videos and pictures by reference through real Kafka and two lanes of workers, one of each killed on the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pdqhash
import pytest

from tests.clips import FAST, NAMES, NTSC, clip, encode, scenes
from tests.pictures import encode as encode_picture
from tests.pictures import photo
from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer
from tests.system.corpus import UPLOAD_JSON, Sent
from tests.system.oracle import Known, pdq
from tests.system.rig import HASHWEIR, Node, Rig, Verdicts, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(600)]
COPIES = 12
LANE = {"video": b"long", "image": b"main"}


@dataclass(frozen=True)
class Case:
    """One upload, and what its verdict must say: outcome, reason, and what its hits look like."""

    sent: Sent
    media: str
    outcome: str
    reason: str | None = None
    hit: Callable[[dict[str, Any]], bool] | None = None


def frames(content: bytes) -> list[str]:
    """PDQ of the frames that vPDQ samples, from decoding all of them: every `int(rate)`-th."""
    found = []
    with av.open(BytesIO(content), "r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % int(NTSC) == 0:
                bits, quality = pdqhash.compute(frame.to_ndarray(format="rgb24"))
                assert quality >= 50
                found.append(np.packbits(bits).tobytes().hex())
    return found


def with_tail(content: bytes, name: str) -> bytes:
    """The same video as another file: no copy is answered from the cache."""
    return content + struct.pack(">I4s", 8 + len(name), b"free") + name.encode()


def whole(hit: dict[str, Any]) -> bool:
    return (hit["share_upload"], hit["share_known"], hit["times"][0][0]) == (1, 1, 0)


def inside(hit: dict[str, Any]) -> bool:
    return bool(hit["state"] == "below_share" and hit["share_upload"] < 0.8 <= hit["share_known"])


def cases(root: Path) -> Iterator[Case]:
    """Files below the root, and addresses that lead nowhere or out of it, each as a video and as a picture."""
    known, again = clip("h264"), clip("h264-mkv")
    other = encode(scenes(NAMES[3:], (320, 240), 45), options=FAST)
    longer = encode(scenes(NAMES, (320, 240), 45), options=FAST)
    picture, stranger = (encode_picture(photo(name, (320, 240)), "JPEG") for name in ("coins.png", "moon.png"))
    for n in range(COPIES):
        yield _file(root, f"same-{n}.mp4", with_tail(known, f"{n}"), "video", "match", whole)
        yield _file(root, f"other-{n}.mp4", with_tail(other, f"{n}"), "video", "clear")
        yield _file(root, f"longer-{n}.mp4", with_tail(longer, f"{n}"), "video", "clear", inside)
        yield _file(root, f"known-{n}.jpg", picture + b"%d" % n, "image", "match")
        yield _file(root, f"unknown-{n}.jpg", stranger + b"%d" % n, "image", "clear")
    yield _file(root, "again.mkv", again, "video", "match", whole)
    (root / "link.mp4").symlink_to(root / "same-0.mp4")
    (root / "folder").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    for media in LANE:
        for address, reason in (
            ("link.mp4", "not_allowed_uri"),
            ("folder/hostname", "not_allowed_uri"),
            ("../outside.mp4", "not_allowed_uri"),
            ("%2e%2e/outside.mp4", "not_allowed_uri"),
            ("pipe", "not_allowed_uri"),
            ("missing.mp4", "not_found"),
        ):
            yield Case(_sent(f"{media} {address}", root, address, media), media, "unscanned", reason)
        for claim, reason in (({"size": 1}, "size_mismatch"), ({"sha256": "0" * 64}, "digest_mismatch")):
            yield Case(_sent(f"{media} {reason}", root, "same-0.mp4", media, **claim), media, "unscanned", reason)


def _file(
    root: Path,
    name: str,
    content: bytes,
    media: str,
    outcome: str,
    hit: Callable[[dict[str, Any]], bool] | None = None,
) -> Case:
    (root / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Case(_sent(name, root, name, media, size=len(content), sha256=sha256), media, outcome, None, hit)


def _sent(name: str, root: Path, address: str, media: str, **claims: object) -> Sent:
    message = {"uri": f"file://{root}/{address}", "media_type": f"{media}/{'mp4' if media == 'video' else 'jpeg'}"}
    headers = (("content-type", UPLOAD_JSON), ("ce_id", name.encode()), ("ce_source", b"test"))
    return Sent(name, media, json.dumps(message | claims).encode(), headers)


def check(case: Case, body: dict[str, Any], lane: bytes) -> None:
    told = (case.sent.id, body["outcome"], body["reason"], body["hits"])
    assert (body["outcome"], body["reason"]) == (case.outcome, case.reason), told
    assert lane == LANE[case.media], told
    assert bool(body["hits"]) == (case.outcome == "match" or case.hit is not None), told
    assert all(case.hit is None or case.hit(hit) for hit in body["hits"]), told


async def run(rig: Rig, uploads: list[Case]) -> str:
    """Send them, and kill each lane's only worker while it has handed on, or judged, some and not all."""
    main, long = rig.node("main"), rig.node("long", (*HASHWEIR, "work", "--long"))
    for node in (main, long):
        node.wait_ready()
    async with Verdicts(rig) as verdicts:
        await rig.send(one.sent for one in uploads)
        await asyncio.to_thread(_kill_after, main, "hashweir_relayed_total", 5)
        for least in (3, 8):
            await asyncio.to_thread(_kill_after, long, "hashweir_uploads_total", least)
        await verdicts.wait_for_all([one.sent.id for one in uploads], 180)
        relayed = int(main.metric("hashweir_relayed_total"))
        assert [main.terminate(), long.terminate()] == [0, 0], main.tail() + long.tail()
        while await verdicts.read(500):
            pass
    lanes: Counter[bytes] = Counter()
    for case in uploads:
        bodies = defaultdict(set)
        for said in verdicts.by_id[case.sent.id]:
            body = json.loads(said.body)
            bodies[body["position"]].add(said.body)
            check(case, body, said.headers["lane"])
            lanes[said.headers["lane"]] += 1
        assert all(len(same) == 1 for same in bodies.values()), case.sent.id
    videos = sum(one.media == "video" for one in uploads)
    return f"{len(uploads)} uploads, {videos} videos; {relayed} relayed since the kill; verdicts {dict(lanes)}"


def _kill_after(node: Node, metric: str, least: int) -> None:
    wait_for(lambda: node.metric(metric) >= least, 60, node.tail)
    node.kill()
    node.start()


def test_what_comes_by_reference_is_judged_in_its_lane_and_nothing_is_lost(
    broker: KafkaBroker, valkey_server: ValkeyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares and times of a known video, a reason for each address that is none, one body per position, no loss."""
    root = tmp_path / "media"
    root.mkdir()
    (tmp_path / "outside.mp4").write_bytes(clip())
    uploads = list(cases(root))
    settings = {"HASHWEIR_MEDIA__FILE_ROOT": str(root), "HASHWEIR_WORKER__RELAY_LONG": "true"}
    with Rig(broker.bootstrap, valkey_server.url, "by-reference", extra=settings) as rig:
        rig.create()
        rig.fill("videos", [Known("videos", "clip", "pdq", value) for value in dict.fromkeys(frames(clip()))])
        known = encode_picture(photo("coins.png", (320, 240)), "JPEG")
        rig.fill("photos", [Known("photos", "coins", "pdq", pdq(known)[0])])
        line = asyncio.run(run(rig, uploads))
    with capsys.disabled():
        print(f"\n{line}")
