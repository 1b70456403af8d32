"""A scan of videos and animations: fingerprints with times, and a reply that the parent accepts."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from hashweir.adapters.sandbox_frames import BadReply, Reply, pack, unpack_replies
from hashweir.hashing import pdq
from hashweir.model import Fingerprint, Limits, Scan
from hashweir.pipeline.scan import prepare, scan
from tests.clips import FAST, NAMES, clip, encode, pan, scenes
from tests.pictures import photo

LIMITS = Limits()


def frames_of(result: Scan) -> list[Fingerprint]:
    return [one for one in result.fingerprints if one.time_s is not None]


def accepted(result: Scan) -> Scan | None:
    return unpack_replies(bytes(pack([Reply(number=1, scan=result)])[4:]), [1])[0]


@pytest.mark.parametrize("kind", ["h264", "vp9", "mpeg4-avi"])
def test_a_video(kind: str) -> None:
    """Frames with times, the exact hashes, every kind told; and an honest reply."""
    content = clip(kind)
    result = scan(content, "video/mp4", LIMITS)
    assert result.media_class == "video"
    assert result.checked == {"pdq": "ok", "sha256": "ok", "md5": "ok"}
    assert result.footage is not None
    assert sum(one.frames or 0 for one in frames_of(result)) == result.footage.frames == 5
    assert result.footage.share_checked == 1
    assert result.fingerprints[-2].value == hashlib.sha256(content).hexdigest()
    assert accepted(result) == result


def test_a_still_is_kept_once() -> None:
    """Four seconds of one picture are one fingerprint with its time span."""
    content = encode(scenes(NAMES[:1], (320, 240), 120, still=True), rate=30, options=FAST)
    (one,) = frames_of(scan(content, None, LIMITS))
    assert (one.time_s, one.until_s, one.frames) == (0, 3, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x20ftypisom" + bytes(100), "undecodable"),
        (encode(pan(NAMES[0], (64, 64), 5), "ffv1", "matroska", 30), "codec_not_allowed"),
    ],
)
def test_refused_videos_keep_their_exact_hashes(content: bytes, reason: str) -> None:
    """A file that is known byte for byte is found whatever its codec."""
    result = scan(content, "video/mp4", LIMITS)
    assert (result.media_class, result.reason, result.checked["pdq"]) == ("video", reason, reason)
    assert [one.kind for one in result.fingerprints] == ["sha256", "md5"]
    assert accepted(result) == result


def test_an_unknown_video_is_a_video_that_was_not_checked() -> None:
    """No decoder for it: unscanned with a reason, of its class."""
    result = scan(b"FLV\x01 and so on", "video/x-flv", LIMITS)
    assert (result.media_class, result.reason) == ("video", "unknown_content_type")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyAV is not installed, a video is unscanned and says why; pictures are as always."""
    monkeypatch.setattr("hashweir.pipeline.decode_video.HAVE_DECODER", False)
    result = prepare(LIMITS)(clip(), "video/mp4")
    assert result.checked["pdq"] == "no_video_decoder"


def test_out_of_time() -> None:
    """The scan answers with a part before its deadline kills it."""
    result = scan(clip(), "video/mp4", Limits(video_budget_s=1e-9))
    assert (result.reason, result.checked["pdq"]) == (None, "partial")


def animated(format_name: str, names: tuple[str, ...] = NAMES[:3], **options: Any) -> bytes:
    pictures = [photo(name, (120, 90)) for name in names]
    file = BytesIO()
    pictures[0].save(file, format_name, save_all=True, append_images=pictures[1:], duration=500, **options)
    return file.getvalue()


@pytest.mark.parametrize(("format_name", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_an_animation_is_hashed_beyond_its_first_frame(format_name: str, options: dict[str, Any]) -> None:
    """What hides behind the first frame is found; the first frame is the picture that it always was."""
    content = animated(format_name, **options)
    result = scan(content, None, LIMITS)
    still = [one for one in result.fingerprints if one.kind == "pdq" and one.time_s is None]
    frames = frames_of(result)
    assert len(still) == 1
    assert [one.time_s for one in frames] == [0, 0.5, 1]
    assert frames[0].value == still[0].value
    for one, name in zip(frames, NAMES, strict=False):
        wanted = pdq.fingerprint(__import__("numpy").asarray(photo(name, (120, 90))))[0]
        assert pdq.Pdq().distance(bytes.fromhex(one.value), wanted) <= 20
    assert (result.media_class, result.checked["pdq"]) == ("image", "ok")
    assert accepted(result) == result


def test_an_animation_of_many_frames_is_looked_at_from_end_to_end() -> None:
    """Of more frames than the limit, every second or third is hashed, to the end."""
    result = scan(animated("GIF", NAMES[:4] * 3), None, Limits(animation_frames=5))
    assert result.footage is not None
    assert (result.footage.frames, result.checked["pdq"]) == (4, "ok")
    assert frames_of(result)[-1].time_s == 4.5


def test_an_animation_out_of_time_is_a_part() -> None:
    """Frames that were not looked at are not clear."""
    result = scan(animated("GIF"), None, Limits(animation_budget_s=1e-9))
    assert result.checked["pdq"] == "partial"
    assert accepted(result) == result


def test_a_still_picture_has_no_footage() -> None:
    """One frame is a picture."""
    file = BytesIO()
    Image.new("RGB", (64, 64)).save(file, "GIF")
    result = scan(file.getvalue(), None, LIMITS)
    assert result.footage is None
    assert frames_of(result) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"time_s": None},
        {"until_s": -1.0},
        {"until_s": 1e12},
        {"time_s": float("nan")},
        {"frames": 10**6},
        {"time_s": 5.0, "until_s": 1.0},
    ],
)
def test_a_reply_with_an_impossible_time_is_refused(lie: dict[str, Any]) -> None:
    """What a broken scan process may say of time is bounded."""
    import msgspec

    result = scan(clip(), None, LIMITS)
    first, *rest = result.fingerprints
    bad = msgspec.structs.replace(result, fingerprints=(msgspec.structs.replace(first, **lie), *rest))
    with pytest.raises(BadReply):
        accepted(bad)
