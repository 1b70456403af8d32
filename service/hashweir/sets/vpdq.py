"""Known videos in vPDQ's own forms, to rows of one item and back.

    JSON    a list of "hex,quality,timestamp": what python-threatexchange stores and exchanges
    text    one line `frame,quality,hex,timestamp` per frame: what the vpdq command line writes

A timestamp is in seconds; in JSON it has only three significant digits (from 1000 s on, tens of seconds). Exact
repeats and frames under quality 50 are left out: vPDQ itself drops both before it compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import msgspec

from hashweir.sets.read import Line, Rejection, Row, excerpt

MIN_QUALITY: Final = 50
"""Default of vPDQ in python-threatexchange for both sides of a comparison."""
MAX_FILE_BYTES: Final = 32 * 2**20
_frames = msgspec.json.Decoder(list[str])


class VpdqReader:
    """Iterate over (number of the frame from 1, Row | Rejection) of one known video; as `sets.read.Reader` otherwise.

    `left_out` counts frames that vPDQ would not compare either.
    """

    def __init__(self, file: BinaryIO, item: str) -> None:
        """`file` needs `read` alone. `item` names the known video in its set."""
        self._file = file
        self._item = item
        self.lines = self.bytes = self.left_out = 0

    def __iter__(self) -> Iterator[tuple[int, Row | Rejection]]:
        raw = self._file.read(MAX_FILE_BYTES + 1)
        self.bytes = len(raw)
        frames = _split(raw)
        if isinstance(frames, Rejection):
            self.lines = 1
            yield 1, frames
            return
        seen: set[str] = set()
        for number, cells in enumerate(frames, start=1):
            self.lines = number
            row = self._row(cells)
            if isinstance(row, Row) and (row.value in seen or (row.quality or 0) < MIN_QUALITY):
                self.left_out += 1
                continue
            if isinstance(row, Row):
                seen.add(row.value)
            yield number, row

    def _row(self, text: str) -> Row | Rejection:
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) == 4:
            cells = [cells[2], cells[1], cells[3]]
        if len(cells) != 3:
            return _bad(f"a frame is hex,quality,timestamp or frame,quality,hex,timestamp, got {excerpt(text)}")
        try:
            quality, seconds = int(cells[1]), float(cells[2])
        except ValueError:
            return _bad(f"quality is a whole number and timestamp one of seconds, got {excerpt(text)}")
        if not 0 <= seconds < 4e6:
            return _bad(f"a timestamp is 0 to 4,000,000 seconds, got {excerpt(cells[2])}", "bad_field")
        return Row(kind="pdq", value=cells[0].lower(), item=self._item, quality=quality, length=round(seconds * 1000))


def _split(raw: bytes) -> list[str] | Rejection:
    """The frames of either form, as text."""
    if len(raw) > MAX_FILE_BYTES:
        return _bad(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        if raw.lstrip().startswith(b"["):
            return _frames.decode(raw)
        return [line for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except msgspec.MsgspecError as error:
        return _bad(f"no JSON list of texts: {str(error)[:120]}")
    except (UnicodeDecodeError, RecursionError):
        return _bad("not UTF-8 text")


def _bad(message: str, reason: str = "bad_row") -> Rejection:
    return Rejection(reason=reason, message=message)


def show_vpdq(lines: Iterable[Line]) -> bytes:
    """The active PDQ entries of one item as vPDQ JSON, in order of time.

    An entry without a time stands at 0, one without a quality at 100: vPDQ knows no "unknown".
    """
    frames = sorted(
        ((line.length or 0) / 1000, line.value, 100 if line.quality is None else line.quality)
        for line in lines
        if line.kind == "pdq" and line.state == "active"
    )
    return msgspec.json.encode([f"{value},{quality},{_seconds(time_s)}" for time_s, value, quality in frames]) + b"\n"


def _seconds(time_s: float) -> str:
    """Milliseconds are kept; vPDQ itself writes three significant digits and reads any number."""
    return f"{time_s:.3f}".rstrip("0").rstrip(".")
