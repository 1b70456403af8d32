"""A PDF file to its pages' texts and to pixels of the pages that are pictures. Runs inside a scan process.

A page is rendered where text alone would not cover it: it has next to no text (a scan), or pictures take up half of
it or more (a scan with a text layer, whole or in strips; a poster above a caption). Others are known by their text.

PDFium is not thread-safe, and a scan process has one thread. It runs scripts of no kind in this build.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hashweir.model import Limits

try:
    import pypdfium2 as pdfium
    from pypdfium2 import raw
except ImportError:  # the `pdf` extra is not installed
    pdfium = None
else:
    # PDFium would look for fonts in the machine's folders: the same page would look different elsewhere, and a scan
    # process that opens a file is killed. An empty list of folders, which has to outlive the library, is its way
    # to have none (fpdfview.h, FPDF_LIBRARY_CONFIG); its own fonts stay.
    _NO_FOLDERS: Final = (ctypes.POINTER(ctypes.c_char) * 1)()
    raw.FPDF_DestroyLibrary()
    raw.FPDF_InitLibraryWithConfig(raw.FPDF_LIBRARY_CONFIG(version=2, m_pUserFontPaths=_NO_FOLDERS))

RENDERED_SIDE: Final = 1024
"""Longest side of a rendered page, in pixels. PDQ looks at 64 x 64, and a page of any size costs the same."""
_LITTLE_TEXT: Final = 50
"""Characters; TLSH has no value for fewer."""
_LARGE_PICTURE: Final = 0.5
"""Share of a page that its pictures take up."""
_LARGE_NESTED_PIXELS: Final = 250_000
"""A picture inside a form is placed by the form's own matrices; of those, the pixels decide."""
_NESTING: Final = 5
# U+FFFE and U+0002 are PDFium's signs for a hyphen at the end of a line: without them the word is whole again.
_LINE_HYPHENS: Final = dict.fromkeys((0xFFFE, 0x02))


class Unopened(Exception):
    """The file can't be opened as a PDF at all; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its number from 1, its text, its pixels (height x width x 3, uint8, RGB) where it was rendered.

    `trouble` is the reason why something of it is missing; `text_complete` says whether that is its picture only.
    """

    number: int
    text: str = ""
    rgb: npt.NDArray[np.uint8] | None = None
    trouble: str | None = None
    text_complete: bool = True


def pages(content: bytes, limits: Limits) -> Iterator[Page]:
    """The pages in order, each read when it is asked for, `limits.pages` of them at most.

    Where there are more, a last one without content has the trouble `too_many_pages`. Raises Unopened at once,
    never later: what is wrong with a single page is that page's trouble.
    """
    if pdfium is None:
        raise Unopened("unknown_content_type")
    try:
        document = pdfium.PdfDocument(content)
        count = len(document)
    except pdfium.PdfiumError as error:
        locked = error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
        raise Unopened("encrypted" if locked else "undecodable") from error
    if count == 0:
        raise Unopened("undecodable")
    return _read(document, count, limits)


def _read(document: Any, count: int, limits: Limits) -> Iterator[Page]:
    with contextlib.closing(document):
        for index in range(min(count, limits.pages)):
            try:
                with contextlib.closing(document[index]) as page:
                    yield _page(page, index + 1, limits)
            except pdfium.PdfiumError:
                yield Page(index + 1, trouble="truncated", text_complete=False)
    if count > limits.pages:
        yield Page(limits.pages + 1, trouble="too_many_pages", text_complete=False)


def _page(page: Any, number: int, limits: Limits) -> Page:
    if raw.FPDFPage_CountObjects(page) > limits.page_objects:
        return Page(number, trouble="too_many_objects", text_complete=False)
    with contextlib.closing(page.get_textpage()) as of:
        text = of.get_text_bounded().translate(_LINE_HYPHENS)
    bounds = page.get_bbox()
    pictures = [_size(one, bounds) for one in _pictures(page, limits.page_objects)]
    little = len(text.strip()) < _LITTLE_TEXT
    if not little and sum(share for share, _ in pictures) < _LARGE_PICTURE:
        return Page(number, text)
    for _, sides in pictures:
        if max(sides) > limits.side or sides[0] * sides[1] > limits.pixels:
            return Page(number, text, trouble="too_many_pixels")
    width, height = page.get_size()
    scale = RENDERED_SIDE / max(width, height, 1.0)
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False, may_draw_forms=False)
    with contextlib.closing(bitmap):
        rgb = np.array(bitmap.to_numpy()[:, :, :3])  # a copy: the bitmap's memory ends with it
    return Page(number, text, rgb)


def _pictures(page: Any, most: int) -> Iterator[Any]:
    """Pictures among the first objects of a page. Forms within forms can hold any number of objects."""
    first = islice(page.get_objects(max_depth=_NESTING), most)
    return (one for one in first if one.type == raw.FPDF_PAGEOBJ_IMAGE)


def _size(picture: Any, page: tuple[float, float, float, float]) -> tuple[float, tuple[int, int]]:
    """Share of the page that a picture takes up, and its sides in pixels as its header tells them."""
    sides = picture.get_px_size()
    if picture.level > 0:
        return float(sides[0] * sides[1] >= _LARGE_NESTED_PIXELS), sides
    left, bottom, right, top = picture.get_bounds()
    # What lies outside of the page takes up nothing of it.
    across = min(right, page[2]) - max(left, page[0])
    up = min(top, page[3]) - max(bottom, page[1])
    whole = (page[2] - page[0]) * (page[3] - page[1])
    return max(across, 0.0) * max(up, 0.0) / max(whole, 1.0), sides
