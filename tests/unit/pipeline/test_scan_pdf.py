"""PDF files to fingerprints: what is read as text, what is rendered, and what is said of the rest."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashweir.adapters.sandbox_frames import BadReply, Reply, pack, unpack_replies
from hashweir.errors import REASONS
from hashweir.hashing import HASHERS, exact
from hashweir.model import KINDS_OF, Fingerprint, Limits, Scan, Upload
from hashweir.pipeline import decode_pdf
from hashweir.pipeline.decide import decide
from hashweir.pipeline.fingerprint import fingerprint_picture, fingerprint_text
from hashweir.pipeline.lookup import lookup
from hashweir.pipeline.scan import scan
from tests.pdfs import Sheet, lines, locked, pdf, placed, scanned
from tests.pictures import damaged, photo
from tests.unit.pipeline.views import ListView, make_entry, make_set

PDF = "application/pdf"
PROSE = "The river rose in the night and by morning the lower fields stood under brown water up to the gate. " * 12
SCAN = Sheet(placed(0, 0, 0, 512, 512) + lines(PROSE), (photo(),), (512, 820))


def scanned_pdf(*sheets: Sheet, limits: Limits = Limits(), **options: object) -> Scan:  # noqa: B008 - frozen
    return sound(pdf(*sheets, **options), limits)  # type: ignore[arg-type]


def sound(content: bytes, limits: Limits = Limits(), declared: str | None = PDF) -> Scan:  # noqa: B008
    """The scan of a file, after a look at what every scan keeps to and what the parent of a scan process demands."""
    result = scan(content, declared, limits)
    assert set(exact.fingerprints(content)) <= set(result.fingerprints)
    kinds = KINDS_OF[result.media_class] if result.media_class else ("sha256", "md5")
    assert set(result.checked) == set(kinds)
    assert {word for word in result.checked.values() if word != "ok"} <= REASONS.keys()
    assert unpack_replies(bytes(pack([Reply(number=1, scan=result)])[4:]), [1]) == [result]
    return result


def pages(result: Scan) -> list[int | None]:
    return [one.page for one in result.fingerprints if one.kind == "pdq"]


def of_text(result: Scan) -> set[Fingerprint]:
    return {one for one in result.fingerprints if one.kind in ("tlsh", "text")}


def distance(one: Fingerprint, image: Image.Image) -> int:
    (known,) = (other for other in fingerprint_picture(np.asarray(image.convert("RGB"))) if other.form == "canonical")
    pdq = HASHERS["pdq"]
    return pdq.distance(pdq.parse(one.value), pdq.parse(known.value))


def test_text_of_all_pages_is_one_text() -> None:
    result = scanned_pdf(Sheet(lines(PROSE)), Sheet(lines(PROSE[::-1])))
    assert (result.media_class, result.media_type, result.reason) == ("document", PDF, None)
    assert result.checked == {"tlsh": "ok", "text": "ok", "pdq": "ok", "sha256": "ok", "md5": "ok"}
    assert pages(result) == []
    # Lines end in the middle of words here; white space aside, what was drawn is what was read.
    wanted = {one.value for one in fingerprint_text(scan_text(PROSE) + "\n" + scan_text(PROSE[::-1]))[0]}
    assert {one.value for one in of_text(result) if one.form == "normal"} <= wanted
    assert "mostly_ascii" in result.notes


def scan_text(text: str) -> str:
    return "\n".join(text[at : at + 90] for at in range(0, len(text), 90))


def test_scanned_pages_are_hashed_one_by_one() -> None:
    images = [photo(name) for name in ("astronaut.png", "chelsea.png", "rocket.jpg")]
    result = scanned_pdf(*(scanned(image) for image in images))
    assert result.checked == {"tlsh": "ok", "text": "ok", "pdq": "ok", "sha256": "ok", "md5": "ok"}
    assert pages(result) == [1, 2, 3]
    assert not of_text(result)
    for one, image in zip(result.fingerprints, images, strict=False):
        assert distance(one, image) <= 10


@pytest.mark.parametrize("rotate", [0, 90, 180])
def test_a_page_with_text_and_a_large_picture_is_both(rotate: int) -> None:
    result = scanned_pdf(Sheet(SCAN.drawing, SCAN.pictures, SCAN.size, rotate), Sheet(lines(PROSE)))
    assert pages(result) == [1]
    assert of_text(result)


def test_a_scan_in_strips_is_rendered() -> None:
    image = photo().resize((500, 500))
    strips = tuple(image.crop((0, top, 500, top + 50)) for top in range(0, 500, 50))
    drawing = b"".join(placed(n, 0, 450 - 50 * n, 500, 50) for n in range(10)) + lines(PROSE)
    result = scanned_pdf(Sheet(drawing, strips, (500, 500)))
    assert pages(result) == [1]


def test_a_small_picture_in_a_text_is_left_to_the_text() -> None:
    result = scanned_pdf(Sheet(lines(PROSE) + placed(0, 50, 50, 100, 100), (photo(size=(100, 100)),)))
    assert pages(result) == []
    assert result.checked["pdq"] == "ok"


def test_a_blank_page_hides_nothing_and_a_blank_document_is_not_clear() -> None:
    assert pages(scanned_pdf(Sheet(), scanned(photo()), Sheet())) == [2]
    result = scanned_pdf(Sheet(), Sheet())
    assert {result.checked[kind] for kind in ("tlsh", "text", "pdq")} == {"blank"}
    view = ListView([make_entry("0f" * 32)], {"own": make_set()})
    assert judged(result, view) == ("unscanned", "blank")


def judged(result: Scan, view: ListView) -> tuple[str, str | None]:
    verdict = decide(Upload(source="s", id="u"), result, lookup(view, result.fingerprints), view)
    return verdict.outcome, verdict.reason


def test_a_hit_names_its_page() -> None:
    result = scanned_pdf(scanned(photo("chelsea.png")), scanned(photo()))
    known = next(one.value for one in result.fingerprints if one.page == 2)
    view = ListView([make_entry(known)], {"own": make_set()})
    verdict = decide(Upload(source="s", id="u"), result, lookup(view, result.fingerprints), view)
    assert [(hit.kind, hit.page) for hit in verdict.hits] == [("pdq", 2)]


def test_more_pages_than_are_read() -> None:
    sheets = [scanned(photo(size=(64, 64)))] * 3 + [Sheet(lines(PROSE))] * 2
    result = scanned_pdf(*sheets, limits=Limits(pages=4))
    assert pages(result) == [1, 2, 3]
    assert of_text(result)
    assert {result.checked[kind] for kind in ("tlsh", "text", "pdq")} == {"too_many_pages"}
    assert judged(result, ListView([make_entry("0f" * 32)], {"own": make_set()})) == ("unscanned", "too_many_pages")
    assert scanned_pdf(*sheets[:4], limits=Limits(pages=4)).checked["tlsh"] == "ok"


def test_a_picture_over_the_limit_is_not_rendered_and_the_text_still_counts() -> None:
    result = scanned_pdf(SCAN, Sheet(lines(PROSE)), limits=Limits(pixels=512 * 512 - 1))
    assert pages(result) == []
    assert (result.checked["pdq"], result.checked["tlsh"]) == ("too_many_pixels", "ok")


def test_too_many_objects_on_a_page_leave_both_kinds_unchecked() -> None:
    result = scanned_pdf(Sheet(b"0 0 9 9 re f\n" * 101), scanned(photo()), limits=Limits(page_objects=100))
    assert (result.checked["pdq"], result.checked["tlsh"]) == ("too_many_objects", "too_many_objects")
    assert pages(result) == [2]


def test_a_text_over_the_limit() -> None:
    result = scanned_pdf(Sheet(lines(PROSE)), scanned(photo()), limits=Limits(text_bytes=500))
    assert not of_text(result)
    assert (result.checked["tlsh"], result.checked["text"], result.checked["pdq"]) == ("too_large", "too_large", "ok")


def test_what_does_not_open_has_a_reason() -> None:
    assert sound(locked()).reason == "encrypted"
    assert sound(b"%PDF-1.7\n").reason == "undecodable"
    assert sound(pdf(Sheet(lines(PROSE)))[:300]).reason == "undecodable"
    assert sound(pdf()).reason == "undecodable"
    assert sound(locked()).media_class == "document"


def test_magic_bytes_decide_and_a_declared_text_stays_one() -> None:
    content = pdf(Sheet(lines(PROSE)))
    assert sound(content, declared=None).media_class == "document"
    assert "type_mismatch" in sound(content, declared="image/png").notes
    assert sound(b"junk before\n" + content).media_class == "document"
    assert sound(b"%PDF- is how such files begin", declared="text/plain").media_class == "text"


def test_without_the_extra_no_pdf_is_called_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pdf, "pdfium", None)
    result = sound(pdf(Sheet(lines(PROSE))))
    assert (result.media_class, result.reason) == ("document", "unknown_content_type")


def test_a_page_that_says_it_is_one_of_a_text_is_a_lie() -> None:
    result = scan(pdf(scanned(photo())), PDF, Limits())
    for kind in ("sha256", "md5"):
        lie = tuple(msgspec.structs.replace(one, page=1) if one.kind == kind else one for one in result.fingerprints)
        reply = Reply(number=1, scan=msgspec.structs.replace(result, fingerprints=lie))
        with pytest.raises(BadReply, match="page"):
            unpack_replies(bytes(pack([reply])[4:]), [1])


@pytest.mark.slow
def test_damaged_files_give_a_scan_or_a_reason() -> None:
    content = pdf(Sheet(lines(PROSE)), scanned(photo(size=(200, 200))), SCAN)
    for spoilt in damaged(content, seed=7, count=60):
        sound(spoilt)


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 400))
def test_any_operators_give_a_scan(rng: random.Random, count: int) -> None:
    words = [b"q", b"Q", b"BT", b"ET", b"/F 9 Tf", b"(x) Tj", b"/I0 Do", b"1 0 0 1 9 9 cm", b"99999999 w", b"re", b"f"]
    drawing = b" ".join(rng.choice(words) for _ in range(count))
    scanned_pdf(Sheet(drawing, (photo(size=(32, 32)),)))
