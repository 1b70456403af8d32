"""The normal form of texts, version 1: what two copies of a text have in common.

Removed are invisible code points and the Arabic letter stretcher; NFKC, case folding and NFKC again join what
looks or reads the same; runs of white space become one space, and none at either end. The normal form is the
same on every Python: the tables are committed (`unicode14`), and what Unicode 14 had not assigned stays as it is.

TLSH reads it as one byte per character. Of UTF-8, half of all bytes in a two-byte script are the same few lead
bytes, and unrelated texts in those scripts then look alike.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import numpy as np
import numpy.typing as npt

from hashweir.hashing import unicode14

_LONGEST_RUN: Final = 30
"""Marks in a row that are sorted together, as in UAX #15's Stream-Safe Text Format. Sorting takes quadratic time:
without a bound, 160 KB of alternating marks keep a process busy for 8 s."""

_MARK: Final = 1
_UNASSIGNED: Final = 2


def _classes() -> npt.NDArray[np.uint8]:
    classes = np.zeros(0x110000, np.uint8)
    for number, table in ((_MARK, unicode14.MARKS), (_UNASSIGNED, unicode14.UNASSIGNED)):
        for run in unicode14.ranges(table):
            classes[run.start : run.stop] = number
    return classes


def _set(table: str) -> str:
    return "".join(f"\\U{run.start:08x}-\\U{run.stop - 1:08x}" for run in unicode14.ranges(table))


_CLASSES: Final = _classes()
_REMOVED: Final = re.compile(f"[{_set(unicode14.REMOVED)}]")
# Not a single space between words, of which there are too many to replace each by itself.
_SPACES: Final = re.compile(f"[{_set(unicode14.SPACES)}]{{2,}}|(?! )[{_set(unicode14.SPACES)}]")


def normal_form(text: str) -> str:
    """The normal form of a text. Raises UnicodeEncodeError for lone surrogates, which no UTF-8 holds.

    Removal comes first, so that an invisible code point between a letter and its mark keeps nothing apart, and
    again later, for NFKC itself yields letter stretchers.
    """
    text = _REMOVED.sub("", text)
    if text.isascii():
        folded = text.lower()
    else:
        later = np.flatnonzero(_CLASSES[_codes(text)] == _UNASSIGNED).tolist()
        pieces: list[str] = []
        start = 0
        for position in later:
            pieces += (_fold(text[start:position]), text[position])
            start = position + 1
        pieces.append(_fold(text[start:]))
        folded = "".join(pieces)
    return _SPACES.sub(" ", folded).strip(" ")


def one_byte_per_character(text: str) -> bytes:
    """Each character's code point modulo 256, one byte each. Raises UnicodeEncodeError for lone surrogates."""
    return _codes(text).astype(np.uint8).tobytes()


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _fold(text: str) -> str:
    """NFKC, case folding, NFKC, removal, NFKC of a text without unassigned code points."""
    folded = _nfkc(_nfkc(text).casefold())
    removed = _REMOVED.sub("", folded)
    return folded if removed == folded else _nfkc(removed)


def _nfkc(text: str) -> str:
    """NFKC, cut after every 30th mark in a row."""
    if len(text) <= _LONGEST_RUN or text.isascii():
        return unicodedata.normalize("NFKC", text)
    marks = _CLASSES[_codes(text)] == _MARK
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marks.view(np.int8), [0]))))
    cuts = [
        cut for start, stop in edges.reshape(-1, 2).tolist() for cut in range(start + _LONGEST_RUN, stop, _LONGEST_RUN)
    ]
    bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return "".join(unicodedata.normalize("NFKC", text[start:stop]) for start, stop in bounds)
