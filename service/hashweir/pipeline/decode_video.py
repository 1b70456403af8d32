"""Untrusted videos to the frames that vPDQ hashes, under limits. Runs inside a scan process, on one thread.

FFmpeg (through PyAV) reads from memory only: the demuxer is chosen here by magic bytes, demuxers and decoders are
allowed by name, and whatever asks for another file or address is refused.

Most frames are never hashed. Of those, the ones that no other frame refers to are not decoded either: that changes
no other frame by a bit, and is half of the work. It needs to be known beforehand which packet holds which frame of
the order of display; where a file leaves that in doubt, or where what comes out is not what was expected, every
frame is decoded, which is always right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hashweir.hashing.video import Plan, plan
from hashweir.model import Limits, Note
from hashweir.pipeline.video_file import DEMUXERS, HAVE_DECODER, Track, VideoRefused, first_stream, opened, packets

if HAVE_DECODER:
    import av
    import av.error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

_CLOCKED: Final = frozenset({"mov", "matroska"})
"""Demuxers that give each packet the time at which its frame is shown."""
_SKIPPING: Final = frozenset({"h264", "mpeg4", "vp8"})
"""Decoders whose frames that nobody refers to can be left out. In HEVC higher layers of time may refer to them, in
VP9 they still teach the entropy coder, and AV1's decoder can't be asked."""


class _Unexpected(Exception):
    """What came out is not what the packets promised: frames may only be counted by decoding all of them."""


@dataclass(slots=True)
class Sampling(Generic[T]):
    """What was made of a video: (time in seconds, what the frame was turned into) in order of display.

    `share_checked` of it, from its beginning, was looked at; `damaged`: some of it could not be decoded;
    `more_streams`: there are other video streams, which were not looked at. `decode_s` and `frame_s` are seconds.
    """

    frames: list[tuple[float, T]]
    duration_s: float
    every_s: float
    share_checked: float
    damaged: bool
    more_streams: bool
    notes: tuple[Note, ...]
    decode_s: float
    frame_s: float


def sample(
    content: bytes, media_type: str, limits: Limits, turn: Callable[[Pixels], T], *, skip: bool = True
) -> Sampling[T]:
    """Turn every sampled frame (height x width x 3, uint8, RGB, full size, not rotated) of a video into something.

    Stops where the time budget is spent. `skip=False` decodes every frame; the answer is the same. Raises
    VideoRefused for what can't or may not be decoded, MemoryError.
    """
    started = time.monotonic()
    if not HAVE_DECODER:
        raise VideoRefused("no_video_decoder")
    try:
        with opened(content, media_type) as container:
            stream, more = first_stream(container, limits)
            track = packets(container, stream, limits)
            skip &= DEMUXERS[media_type] in _CLOCKED
            skip &= track.orderly and stream.codec_context.name in _SKIPPING
            declared = float(stream.average_rate or 0)
            sampling_plan = plan(track.times, declared, limits.video_interval_s, limits.video_frames)
        run = _Run(sampling_plan, track, limits, turn, started)
        if skip:
            try:
                run.skipping(content, media_type)
            except _Unexpected:
                run = _Run(sampling_plan, track, limits, turn, started)
                run.whole(content, media_type)
        else:
            run.whole(content, media_type)
    except av.error.FFmpegError as error:
        raise (MemoryError(str(error)) if isinstance(error, MemoryError) else VideoRefused("undecodable")) from error
    except (ArithmeticError, LookupError, OSError, ValueError) as error:
        raise VideoRefused("undecodable") from error
    if not run.frames and not run.late:
        raise VideoRefused("no_video_stream" if not run.damaged else "undecodable")
    return run.sampling(more)


def warm_up() -> None:
    """Encode and decode a few frames, so that everything is loaded before a scan process locks itself down."""
    if not HAVE_DECODER:
        return
    file = BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    sample(file.getvalue(), "video/mp4", Limits(), lambda rgb: rgb.shape)


@dataclass(slots=True)
class _Run(Generic[T]):
    """One pass over a video's packets."""

    plan: Plan
    track: Track
    limits: Limits
    turn: Callable[[Pixels], T]
    started: float
    frames: list[tuple[float, T]] = field(default_factory=list)
    last: int = -1
    frame_s: float = 0.0
    damaged: bool = False
    late: bool = False

    def skipping(self, content: bytes, media_type: str) -> None:
        """Decode what is sampled and what that refers to. Raises _Unexpected where that can't be told apart."""
        number_of = {stamp: number for number, stamp in enumerate(self.track.stamps) if self.plan.wants(number)}
        awaited = set(number_of)
        with opened(content, media_type) as container:
            stream, _ = first_stream(container, self.limits)
            for frame in self._decoded(container, stream, awaited):
                if frame is None or frame.interlaced_frame:  # a field may have a packet of its own
                    raise _Unexpected
                if frame.pts in awaited:
                    awaited.discard(frame.pts)
                    self._take(number_of[frame.pts], frame)
        if awaited and not self.late:
            raise _Unexpected

    def whole(self, content: bytes, media_type: str) -> None:
        """Decode every frame, and count."""
        number = 0
        with opened(content, media_type) as container:
            stream, _ = first_stream(container, self.limits)
            for frame in self._decoded(container, stream, None):
                if frame is None:
                    self.damaged = True
                    continue
                if self.plan.wants(number):
                    self._take(number, frame)
                number += 1

    def _decoded(
        self, container: InputContainer, stream: VideoStream, awaited: set[int] | None
    ) -> Iterator[VideoFrame | None]:
        """Frames in order of display; None for each packet that can't be decoded."""
        context = stream.codec_context
        for packet in container.demux(stream):
            if time.monotonic() - self.started > self.limits.video_budget_s:
                self.late = True
                return
            if awaited is not None:
                context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in awaited else "NONREF"
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                yield None

    def _take(self, number: int, frame: VideoFrame) -> None:
        if frame.width * frame.height > self.limits.pixels or max(frame.width, frame.height) > self.limits.side:
            raise VideoRefused("too_many_pixels")
        began = time.monotonic()
        self.frames.append((self.plan.time_of(number), self.turn(_rgb(frame))))
        self.last = number
        self.frame_s += time.monotonic() - began

    def sampling(self, more_streams: bool) -> Sampling[T]:
        """What this pass found."""
        count = len(self.track.times)
        share = min(1.0, (self.last + 1) / count) if self.late else 1.0
        notes: list[Note] = []
        if self.plan.coarse:
            notes.append("sampled_coarsely")
        if self.plan.doubtful:
            notes.append("frame_rate_doubtful")
        if more_streams:
            notes.append("more_video_streams")
        duration = self.track.times[-1] - self.track.times[0] + 1 / self.plan.fps
        # A container that promises more than it holds was cut short; last frames and rounding aside.
        cut = self.track.promised_s > 1.05 * duration + 0.5
        return Sampling(
            frames=self.frames,
            duration_s=duration,
            every_s=self.plan.step / self.plan.fps,
            share_checked=share,
            damaged=self.damaged or cut,
            more_streams=more_streams,
            notes=tuple(notes),
            decode_s=time.monotonic() - self.started - self.frame_s,
            frame_s=self.frame_s,
        )


def _rgb(frame: VideoFrame) -> Pixels:
    """RGB24 at full size, by FFmpeg's own conversion, as vPDQ does."""
    return frame.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
