"""Laws of looking texts up: how near is near depends on the lengths, and the set's radius only bounds it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing.radii import Curve, longest_of, reach
from hashweir.model import Fingerprint, Form, Scan, Upload, Verdict
from hashweir.pipeline.decide import decide
from hashweir.pipeline.lookup import lookup, text_reach
from tests.unit.pipeline.views import ListView, make_entry, make_set

LENGTH_BYTE = 0x16
FORMS: tuple[Form, ...] = ("raw", "normal")


def value(distance: int) -> str:
    """A TLSH value so far from `value(0)`: so many of its 128 buckets are one step higher."""
    buckets = [1] * distance + [0] * (128 - distance)
    body = bytes(
        sum(level << 2 * at for at, level in enumerate(buckets[first : first + 4])) for first in range(0, 128, 4)
    )
    # The two digits of the length byte are written in swapped order.
    return "T1" + f"00{LENGTH_BYTE:02X}"[:2] + f"{LENGTH_BYTE:02X}"[::-1] + "00" + body.hex().upper()


def text(form: Form, length: int | None) -> Fingerprint:
    return Fingerprint(kind="tlsh", form=form, recipe=f"tlsh/{form}/1", value=value(0), length=length)


def judge(view: ListView, *notes: str, form: Form = "normal", length: int | None = 2_000) -> Verdict:
    one = text(form, length)
    scan = Scan(media_class="text", media_type="text/plain", fingerprints=(one,), checked={"tlsh": "ok"}, notes=notes)
    return decide(Upload(source="s", id="u"), scan, lookup(view, scan.fingerprints, scan.notes), view)


lengths = st.integers(50, 200_000)


@given(
    distance=st.integers(0, 128),
    ours=lengths,
    share=st.floats(0.8, 1.25),
    bound=st.integers(0, 128),
    form=st.sampled_from(FORMS),
    notes=st.sampled_from([(), ("mostly_ascii",)]),
)
def test_near_is_within_the_set_s_radius_and_what_was_measured_for_both_lengths(
    distance: int, ours: int, share: float, bound: int, form: Form, notes: tuple[str, ...]
) -> None:
    theirs = round(ours * share)
    if not 0.8 <= ours / max(theirs, 1) <= 1.25:
        return
    entry = make_entry(value(distance), "tlsh", form=form, length=theirs)
    view = ListView([entry], {"own": make_set(radius={"tlsh": bound})})
    curve: Curve = "normal" if form == "normal" else "raw" if notes else "raw_of_other_scripts"
    both = [reach(curve, length) for length in (ours, theirs)]
    measured, only_logs = min(one.radius for one in both), any(one.only_logs for one in both)
    verdict = judge(view, *notes, form=form, length=ours)
    assert (verdict.outcome == "match") == (distance <= min(bound, measured))
    for hit in verdict.hits:
        assert hit.radius == min(bound, measured)
        assert not only_logs or (hit.ceiling, hit.action) == ("log", "log")


def test_a_text_of_a_length_that_proves_little_is_only_logged() -> None:
    view = ListView([make_entry(value(3), "tlsh", length=80)], {"own": make_set()})
    assert judge(view, length=80).action == "log"
    view = ListView([make_entry(value(3), "tlsh", length=5_000)], {"own": make_set()})
    assert judge(view, length=5_000).action == "review"


@given(st.sampled_from(FORMS), st.booleans())
def test_an_unknown_length_is_taken_for_the_greatest_that_the_length_byte_allows(form: Form, ascii_text: bool) -> None:
    assert text_reach(ascii_text, text(form, None)) == text_reach(ascii_text, text(form, longest_of(LENGTH_BYTE)))


def test_raw_texts_of_other_scripts_reach_less_far() -> None:
    """Their bytes are alike whatever they say; and so the upload of fingerprints only, which tells no script."""
    assert reach("raw_of_other_scripts", 3_000).radius < reach("raw", 3_000).radius
    entry = make_entry(value(40), "tlsh", form="raw", length=3_000)
    view = ListView([entry], {"own": make_set()})
    assert judge(view, "mostly_ascii", form="raw", length=3_000).outcome == "match"
    assert judge(view, form="raw", length=3_000).outcome == "clear"
