"""vPDQ, a rule for videos: which frames are hashed, at what time they stand, and how near-identical ones are kept.

Each frame's hash is a PDQ like any picture's. Source of the rule: the `vpdq` package 0.2.5
(https://github.com/facebook/ThreatExchange/tree/main/vpdq): of the first video stream, without rotation, every frame
whose number in order of display is a multiple of `int(seconds per hash x average frames per second)`; its time is its
number over the frames per second, whatever the file's own clock says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NEAR_IDENTICAL: Final = 4
"""Bits by which frames may differ and still be kept as one: re-encoding alone moves that many."""
FRAME_RATE_SLACK: Final = 1.1
"""A header's frame rate may be so many times that of its frames before it is doubted."""
LEAST_FPS: Final = 2.0**-32
"""No fraction of two 32-bit numbers, which is how headers say a frame rate, is smaller: less says nothing."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame: time in seconds, 32 bytes of PDQ, quality 0 to 100."""

    time_s: float
    value: bytes
    quality: int


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring sampled frames kept as one: the first one's hash, the best quality, first and last time."""

    time_s: float
    until_s: float
    value: bytes
    quality: int
    frames: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Which frames to hash: the multiples of `step`, and `more` (numbers in order of display)."""

    fps: float
    step: int
    more: frozenset[int]
    coarse: bool
    doubtful: bool

    def wants(self, number: int) -> bool:
        """Whether the frame of this number is hashed."""
        return number % self.step == 0 or number in self.more

    def time_of(self, number: int) -> float:
        """The time that stands for the frame of this number, in seconds."""
        return number / self.fps


def step_of(fps: float, seconds: float) -> int:
    """Every how many frames one is hashed: vPDQ's `int(seconds x fps)`, and 1 where that is 0."""
    return max(1, int(seconds * fps))


def plan(times: Sequence[float], declared_fps: float, seconds: float, most: int) -> Plan:
    """The sampling plan of a video.

    `times` are the display times of all frames in ascending order (seconds, by the file's clock), `declared_fps` what
    its header says (0: nothing). Where a header claims more frames per second than there are, the times are believed:
    a false claim would have next to nothing hashed. Where vPDQ's rule asks for more than `most` frames, the seconds
    between them are multiplied by the least whole number that keeps to it. Frames that are shown for longer than
    twice `seconds` are hashed besides: in a stream of varying rate, vPDQ's count could be made to miss them.
    """
    if not times:
        raise ValueError("a video without frames has no plan")
    length = times[-1] - times[0]
    measured = (len(times) - 1) / length if length > 0 else 0.0
    doubtful = declared_fps < LEAST_FPS or (measured > 0 and declared_fps > FRAME_RATE_SLACK * measured)
    fps = (measured or 1.0) if doubtful else declared_fps
    factor, step, least = 1, step_of(fps, seconds), -(-len(times) // most)
    if step < least:
        factor = math.ceil(least / (fps * seconds))
        # The product may round to just below the whole number that it stands for.
        step = max(least, step_of(fps, factor * seconds))
    # Long stills are few by nature: within the length of the video, each takes two of the seconds.
    stills = (number for number in range(len(times) - 1) if times[number + 1] - times[number] > 2 * factor * seconds)
    more = frozenset(number for number in stills if number % step)
    return Plan(fps, step, more, coarse=factor > 1, doubtful=declared_fps > 0 and doubtful)


def condense(frames: Iterable[Frame]) -> list[Span]:
    """Keep each run of near-identical frames once.

    Every frame is in exactly one span and within `NEAR_IDENTICAL` bits of that span's hash: frames are compared with
    the first of their run, not with each other, so that a slow pan can't creep away from it.
    """
    spans: list[Span] = []
    for frame in frames:
        last = spans[-1] if spans else None
        if last is not None and _distance(last.value, frame.value) <= NEAR_IDENTICAL:
            quality = max(last.quality, frame.quality)
            spans[-1] = Span(last.time_s, frame.time_s, last.value, quality, last.frames + 1)
        else:
            spans.append(Span(frame.time_s, frame.time_s, frame.value, frame.quality, 1))
    return spans


def _distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()
