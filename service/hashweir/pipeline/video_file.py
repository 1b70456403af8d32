"""A video file from memory: its container, the stream that counts, and its packets, none of them decoded.

FFmpeg is given bytes, the one demuxer that the magic bytes call for, and lists of what it may use at all. Whatever
asks for another file or address (a playlist, an external track) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from hashweir.model import Limits

try:
    import av
    import av.error
except ModuleNotFoundError:  # the `video` extra is not installed
    HAVE_DECODER = False
else:
    HAVE_DECODER = True

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

DEMUXERS: Final = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
}
DECODERS: Final = frozenset({"h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4"})
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"


class VideoRefused(Exception):
    """Nothing of this video is hashed, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Track:
    """The packets of a video stream, counted without decoding: `times` in ascending order (seconds)."""

    times: list[float] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    orderly: bool = True
    promised_s: float = 0.0


# What is not UTF-8 in a title is no reason to refuse a file. PyAV 19 always reads it so, and refuses the argument.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _no_other_file(*_: object, **__: object) -> Any:
    raise PermissionError("a video must not name other files")


def opened(content: bytes, media_type: str) -> InputContainer:
    """The container, by the demuxer of its media type. Raises av.error.FFmpegError, ValueError, OSError."""
    container: InputContainer = av.open(
        BytesIO(content),
        mode="r",
        format=DEMUXERS[media_type],
        options={
            "codec_whitelist": ",".join(sorted(DECODERS)),
            "format_whitelist": _FORMATS,
            "protocol_whitelist": "none",
        },
        io_open=_no_other_file,
        **_METADATA,
    )
    return container


def first_stream(container: InputContainer, limits: Limits) -> tuple[VideoStream, bool]:
    """The first video stream that is not a cover picture, ready to decode on one thread; whether there are others."""
    if len(container.streams) > limits.video_streams:
        raise VideoRefused("too_many_streams")
    pictures = av.stream.Disposition.attached_pic
    streams = [one for one in container.streams.video if not one.disposition & pictures]
    if not streams:
        raise VideoRefused("no_video_stream")
    stream = streams[0]
    context = stream.codec_context
    # Of a codec that FFmpeg does not know there is no context, whatever PyAV's types say.
    if getattr(context, "name", None) not in DECODERS:
        raise VideoRefused("codec_not_allowed")
    if context.width * context.height > limits.pixels or max(context.width, context.height) > limits.side:
        raise VideoRefused("too_many_pixels")
    context.thread_count = 1  # a scan process may start no thread
    context.options = {"max_pixels": str(limits.pixels)}
    return stream, len(streams) > 1


def packets(container: InputContainer, stream: VideoStream, limits: Limits) -> Track:
    """Read every packet of the stream, decoding none."""
    track = Track()
    base = float(stream.time_base or 0)
    first: int | None = None
    stamps: list[int] = []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        stamp = _stamp(packet)
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            track.orderly = False
        if first is None:
            first = stamp
            track.orderly &= packet.is_keyframe
        stamps.append(stamp)
    if not stamps:
        raise VideoRefused("no_video_stream")
    track.stamps = sorted(stamps)
    # Frames shown before the first packet's refer to something that is not there; equal times name no one frame.
    track.orderly &= first == track.stamps[0] and len(set(stamps)) == len(stamps)
    track.times = [stamp * base for stamp in track.stamps]
    if track.times[-1] - track.times[0] > limits.video_s:
        raise VideoRefused("too_long")
    track.promised_s = _promised(container, stream, base)
    return track


def _stamp(packet: Packet[VideoStream]) -> int:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return 0 if stamp is None else stamp


def _promised(container: InputContainer, stream: VideoStream, base: float) -> float:
    """The length that the header promises of this stream, in seconds; 0 where it does not say."""
    if stream.duration:
        return stream.duration * base
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0
