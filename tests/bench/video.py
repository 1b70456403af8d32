"""How long a video takes: decoding everything and `pdqhash`, against what the service does. Prints one line each.

    OPENBLAS_NUM_THREADS=1 python -m tests.bench.video [SECONDS] [CODEC]

One thread, as in a scan process: a second one that only waits would be counted as work.
A 720p30 clip of pans and cuts over bundled photos; processor time of one process, the better of two runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from io import BytesIO

import av
import numpy as np
import pdqhash

from hashweir.hashing import pdq
from hashweir.model import Limits
from hashweir.pipeline.decode_video import sample
from tests.clips import NAMES, encode, scenes

OPTIONS = {
    "libx264": {"preset": "medium", "crf": "26", "g": "250", "x264-params": "threads=1"},
    "mpeg4": {"bf": "2", "g": "60", "b": "900000"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"},
}


def everything(content: bytes) -> list[str]:
    """The rule as it is written: decode every frame, hash the sampled ones with the reference."""
    found = []
    with av.open(BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = int(float(stream.average_rate or 1))
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                bits, _ = pdqhash.compute(frame.reformat(format="rgb24", threads=1).to_ndarray())
                found.append(np.packbits(bits).tobytes().hex())
    return found


def ours(content: bytes, media_type: str) -> list[str]:
    """What a scan does."""
    return [value.hex() for _, (value, _) in sample(content, media_type, Limits(), pdq.fingerprint).frames]


def best(run: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """The least processor time of two runs, in seconds, and the result."""
    times = []
    for _ in range(2):
        began = time.process_time()
        result = run()
        times.append(time.process_time() - began)
    return min(times), result


def main(seconds: int = 60, codec: str = "libx264") -> None:
    """Make the clip, run both, compare every hash."""
    frames = seconds * 30 // len(NAMES)
    webm = codec == "libvpx-vp9"
    content = encode(
        scenes(NAMES, (1280, 720), frames), codec, "webm" if webm else "mp4", rate=30, options=OPTIONS[codec]
    )
    media_type = "video/webm" if webm else "video/mp4"
    slow_s, wanted = best(lambda: everything(content))
    plain_s, _ = best(
        lambda: [v.hex() for _, (v, _) in sample(content, media_type, Limits(), pdq.fingerprint, skip=False).frames]
    )
    quick_s, found = best(lambda: ours(content, media_type))
    same = sum(one == other for one, other in zip(found, wanted, strict=True))
    print(
        f"{codec}, 720p30, {seconds} s, {len(content) / 1e6:.1f} MB, {len(wanted)} sampled frames, {same} hashes equal"
    )
    print(f"decode all + pdqhash   {slow_s:6.2f} s")
    print(f"decode all + ours      {plain_s:6.2f} s  {slow_s / plain_s:.2f}x")
    print(f"needed only + ours     {quick_s:6.2f} s  {slow_s / quick_s:.2f}x, {seconds / quick_s:.0f}x real time")


if __name__ == "__main__":
    main(*[int(one) if one.isdigit() else one for one in sys.argv[1:]])  # type: ignore[arg-type]
