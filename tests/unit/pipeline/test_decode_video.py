"""Laws of sampling: the same frames as decoding everything, whatever the codec; and no file gets away with a lie."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest

from hashweir.errors import REASONS
from hashweir.hashing import pdq
from hashweir.model import Limits
from hashweir.pipeline import decode_video
from hashweir.pipeline.decode_video import Pixels, Sampling, sample
from hashweir.pipeline.sniff import sniff
from hashweir.pipeline.video_file import VideoRefused
from tests.clips import FAST, MEDIA_TYPES, NAMES, clip, encode, pan, scenes
from tests.pictures import damaged

LIMITS = Limits()
SIZE = (160, 120)


def seen(rgb: Pixels) -> str:
    return hashlib.sha256(rgb.tobytes()).hexdigest()


def everything(content: bytes, seconds: float = 1.0) -> list[tuple[float, str]]:
    """The rule word by word: decode every frame, take the multiples of int(seconds x fps)."""
    found = []
    with av.open(BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        fps = float(stream.average_rate)
        step = int(seconds * fps)
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                found.append((number / fps, seen(frame.reformat(format="rgb24").to_ndarray().astype(np.uint8))))
    return found


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_the_frames_are_those_of_decoding_everything(kind: str) -> None:
    """Not one pixel of a sampled frame depends on what was not decoded; times are number over frame rate."""
    content = clip(kind)
    assert sniff(content) == MEDIA_TYPES[kind]
    quick, slow = (sample(content, MEDIA_TYPES[kind], LIMITS, seen, skip=skip) for skip in (True, False))
    assert quick.frames == slow.frames
    wanted = everything(content)
    # A varying rate has stills besides what the rule asks for.
    assert [one for one in quick.frames if kind != "h264-vfr" or one in wanted] == wanted
    assert not quick.damaged
    assert quick.share_checked == 1.0


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
def test_any_interval(seconds: float) -> None:
    """The law holds for every interval."""
    limits = Limits(video_interval_s=seconds)
    assert sample(clip("h264-pyramid"), "video/mp4", limits, seen).frames == everything(clip("h264-pyramid"), seconds)


def test_frames_are_left_out_where_that_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipping is really used for H.264 and MPEG-4, and never falls back on good files."""

    def never(*_: object) -> None:
        raise AssertionError("every frame was decoded")

    monkeypatch.setattr(decode_video._Run, "whole", never)
    for kind in ("h264", "h264-pyramid", "h264-mkv", "mpeg4"):
        sample(clip(kind), MEDIA_TYPES[kind], LIMITS, seen)


def test_hashes_are_those_of_the_pictures() -> None:
    """A frame's hash is near that of the photo that was encoded: right order, right channels, right size."""
    content = encode(scenes(NAMES[:3], (320, 240), 30, still=True), rate=30, options=FAST)
    found = sample(content, "video/mp4", LIMITS, pdq.fingerprint).frames
    assert [time_s for time_s, _ in found] == [0.0, 1.0, 2.0]
    for (_, (value, _)), rgb in zip(found, scenes(NAMES[:3], (320, 240), 1), strict=True):
        assert pdq.Pdq().distance(value, pdq.fingerprint(rgb)[0]) <= 16


def test_a_false_frame_rate_does_not_thin_out_the_samples() -> None:
    """A header that claims 900 frames a second would have one frame of 900 hashed: the clock of the frames counts."""
    content = encode(pan(NAMES[0], SIZE, 90), "libvpx-vp9", "webm", 30, {"deadline": "realtime", "cpu-used": "8"})
    at = content.index(b"\x23\xe3\x83\x84")  # DefaultDuration, nanoseconds of one frame
    lie = content[: at + 4] + (1_111_111).to_bytes(4, "big") + content[at + 8 :]
    found = sample(lie, "video/webm", LIMITS, seen)
    assert len(found.frames) >= 3
    assert found.notes == ("frame_rate_doubtful",)


def test_a_long_still_between_many_short_frames_is_seen() -> None:
    """A frame that is shown for seconds is hashed, however its number falls."""
    times = [number * 2 for number in range(100)] + [10_000 + number * 2 for number in range(20)]
    content = encode(pan(NAMES[1], SIZE, 120), options=FAST | {"bf": "0"}, times=times)
    stamps = [time_s for time_s, _ in sample(content, "video/mp4", LIMITS, seen).frames]
    assert any(round(stamp * 120 / 10.04) == 99 for stamp in stamps)


def test_too_many_frames_are_sampled_further_apart() -> None:
    """All of a long video is looked at, and the verdict says that it was looked at coarsely."""
    limits = Limits(video_frames=2, video_interval_s=0.5)
    found = sample(clip(), "video/mp4", limits, seen)
    assert 1 < len(found.frames) <= 2
    assert found.notes == ("sampled_coarsely",)
    assert set(found.frames) <= set(sample(clip(), "video/mp4", Limits(video_interval_s=0.1), seen).frames) | set(
        everything(clip(), found.every_s)
    )


def test_out_of_time_is_a_part() -> None:
    """What was found so far is the answer, and how much of the video that is."""
    found = sample(clip(), "video/mp4", Limits(video_budget_s=1e-9), seen)
    assert found.frames == []
    assert found.share_checked == 0.0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(video_s=2.0), "too_long"),
        (Limits(video_streams=1), "too_many_streams"),
        (Limits(pixels=1000), "too_many_pixels"),
    ],
)
def test_limits(limits: Limits, reason: str) -> None:
    """What is over a limit has a reason of its own."""
    content = encode(pan(NAMES[0], SIZE, 90), rate=30, options=FAST, streams=2)
    with pytest.raises(VideoRefused) as caught:
        sample(content, "video/mp4", limits, seen)
    assert caught.value.reason == reason


def test_other_video_streams_are_told() -> None:
    """Only the first stream is hashed; that there is another one is said, for a player may show it."""
    found = sample(encode(pan(NAMES[0], SIZE, 30), options=FAST, streams=2), "video/mp4", LIMITS, seen)
    assert found.more_streams
    assert "more_video_streams" in found.notes


def test_other_codecs_are_refused() -> None:
    """Of FFmpeg's hundreds of decoders a handful is used."""
    content = encode(pan(NAMES[0], SIZE, 5), "ffv1", "matroska", 30)
    with pytest.raises(VideoRefused) as caught:
        sample(content, "video/x-matroska", LIMITS, seen)
    assert caught.value.reason == "codec_not_allowed"


def test_a_codec_that_nobody_knows_is_refused() -> None:
    """PyAV gives no codec context for it: the process that scans it must not end."""
    content = clip("mpeg4")
    assert b"mp4v" in content
    with pytest.raises(VideoRefused) as caught:
        sample(content.replace(b"mp4v", b"mp4!").replace(b"\x20\x11", b"\xfe\x11"), "video/mp4", LIMITS, seen)
    assert caught.value.reason == "codec_not_allowed"


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0\x20ftypisom", b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\n"]
)
@pytest.mark.parametrize("media_type", ["video/mp4", "video/webm", "video/x-msvideo"])
def test_rubbish_and_playlists(content: bytes, media_type: str) -> None:
    """No other demuxer is ever tried, so no list of other files is followed."""
    with pytest.raises(VideoRefused) as caught:
        sample(content, media_type, LIMITS, seen)
    assert caught.value.reason in ("undecodable", "no_video_stream")


def test_a_file_cut_short_gives_what_it_has() -> None:
    """The frames before the cut are those of the whole file."""
    whole = clip("h264-mkv")
    found = sample(whole[: len(whole) * 2 // 3], "video/x-matroska", LIMITS, seen)
    assert found.damaged
    assert found.frames[:2] == sample(whole, "video/x-matroska", LIMITS, seen).frames[:2]


@pytest.mark.slow
def test_damaged_files_never_raise_anything_else() -> None:
    """Whatever the bytes are: frames, or a reason. Frames in order, times within the video."""
    reasons = set()
    for kind in ("h264", "h264-mkv", "mpeg4-avi", "vp9"):
        for content in damaged(clip(kind), seed=7, count=24):
            try:
                found: Sampling[str] = sample(content, MEDIA_TYPES[kind], LIMITS, seen)
            except VideoRefused as error:
                reasons.add(error.reason)
            else:
                times = [time_s for time_s, _ in found.frames]
                assert times == sorted(times)
                assert 0 <= found.share_checked <= 1
    assert reasons <= REASONS.keys()


def test_rate_of_29_97_takes_every_29th_frame() -> None:
    """int(1 x 29.97) is 29, and times are not the file's clock: what vPDQ does."""
    times = [time_s for time_s, _ in sample(clip("h264"), "video/mp4", LIMITS, seen).frames]
    fps = float(Fraction(30_000, 1001))
    assert times == pytest.approx([number * 29 / fps for number in range(5)])
