"""Short videos made of real photos by PyAV: pans and cuts, in several codecs and containers. Everything is fixed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from io import BytesIO

import av
import numpy as np
import numpy.typing as npt

from tests.pictures import photo

Pixels = npt.NDArray[np.uint8]
NTSC = Fraction(30_000, 1001)
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "ihc.png")


def pan(name: str, size: tuple[int, int], frames: int, still: bool = False) -> Iterator[Pixels]:
    """A window (width, height) that moves over a photo, one frame after the other; or that stands still."""
    width, height = size
    whole = np.asarray(photo(name, (width + width // 2, height + height // 2)))
    for number in range(frames):
        at = 0.0 if still else number / max(1, frames - 1)
        x, y = int(at * (width // 2)), int(at * (height // 2))
        yield np.ascontiguousarray(whole[y : y + height, x : x + width])


def scenes(names: Sequence[str], size: tuple[int, int], frames: int, still: bool = False) -> Iterator[Pixels]:
    """One pan after the other with a hard cut between them."""
    for name in names:
        yield from pan(name, size, frames, still)


def encode(
    pictures: Iterator[Pixels],
    codec: str = "libx264",
    container: str = "mp4",
    rate: Fraction | int = NTSC,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    streams: int = 1,
) -> bytes:
    """A video file. `times` are display times in milliseconds, for a varying rate."""
    usual = os.sched_getscheduler(0)
    file = BytesIO()
    with av.open(file, "w", format=container) as out:
        made = []
        for _ in range(streams):
            stream = out.add_stream(codec, rate=rate, options=options or {})
            stream.pix_fmt = "yuv420p"  # type: ignore[union-attr]
            stream.codec_context.thread_count = 1
            made.append(stream)
        for number, rgb in enumerate(pictures):
            for stream in made:
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if number == 0:
                    stream.width, stream.height = frame.width, frame.height  # type: ignore[union-attr]
                    if times is not None:
                        stream.codec_context.time_base = Fraction(1, 1000)
                frame.pts = number if times is None else times[number]
                frame.time_base = 1 / Fraction(rate) if times is None else Fraction(1, 1000)
                out.mux(stream.encode(frame))  # type: ignore[union-attr, arg-type]
        for stream in made:
            out.mux(stream.encode(None))  # type: ignore[union-attr]
    # SVT-AV1, run by root, leaves its caller with real-time priority; the tests after it would starve the machine.
    os.sched_setscheduler(0, usual, os.sched_param(0))
    return file.getvalue()


FAST = {"preset": "veryfast", "x264-params": "threads=1"}


@cache
def clip(kind: str = "h264") -> bytes:
    """Some seconds of three scenes, by codec and container."""
    size, frames = (320, 240), 45
    pictures = scenes(NAMES[:3], size, frames)
    match kind:
        case "h264":
            return encode(pictures, options=FAST | {"g": "40", "bf": "3"})
        case "h264-pyramid":
            return encode(
                pictures, options={**FAST, "g": "250", "bf": "8", "x264-params": "threads=1:b-pyramid=strict"}
            )
        case "h264-mkv":
            return encode(pictures, container="matroska", options=FAST | {"g": "12"})
        case "h264-open-gop":
            return encode(pictures, options={**FAST, "g": "15", "x264-params": "threads=1:open-gop=1:bframes=4"})
        case "h264-interlaced":
            return encode(pictures, options={**FAST, "x264-params": "threads=1:tff=1:bframes=2"})
        case "h264-vfr":
            times = [number * 33 + (number // 20) * 400 for number in range(3 * frames)]
            return encode(pictures, options=FAST, times=times)
        case "hevc":
            return encode(
                pictures,
                "libx265",
                options={"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
            )
        case "mpeg4":
            return encode(pictures, "mpeg4", options={"bf": "2", "g": "20"})
        case "mpeg4-avi":
            return encode(pictures, "mpeg4", "avi", options={"bf": "2", "g": "20"})
        case "vp9":
            return encode(
                pictures,
                "libvpx-vp9",
                "webm",
                options={"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"},
            )
        case "av1":
            return encode(pictures, "libsvtav1", "matroska", options={"preset": "13", "svtav1-params": "lp=1"})
    raise ValueError(kind)


MEDIA_TYPES = {
    "h264": "video/mp4",
    "h264-pyramid": "video/mp4",
    "h264-mkv": "video/x-matroska",
    "h264-open-gop": "video/mp4",
    "h264-interlaced": "video/mp4",
    "h264-vfr": "video/mp4",
    "hevc": "video/mp4",
    "mpeg4": "video/mp4",
    "mpeg4-avi": "video/x-msvideo",
    "vp9": "video/webm",
    "av1": "video/x-matroska",
}
"""Every kind of clip, and its media type by magic bytes."""
