"""Other views of a picture: computed when a set wants them, looked up among canonical entries, named in the hit."""

from __future__ import annotations

from io import BytesIO
from typing import get_args

import msgspec
import numpy as np
import pdqhash
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hashweir.cli import Usage
from hashweir.cli.hash import read_forms
from hashweir.hashing import RECIPES
from hashweir.model import FORMS, GROUPS, TURNS, AnyForm, Fingerprint, FormGroup, Limits, Scan, Set, SetForm, Upload
from hashweir.pipeline.decide import decide
from hashweir.pipeline.lookup import lookup, wanted_forms
from hashweir.pipeline.match import given as given_scan
from hashweir.pipeline.scan import scan
from tests.pictures import encode, photo
from tests.unit.pipeline.views import ListView, make_entry, make_set

LIMITS = Limits()
ALL: tuple[FormGroup, ...] = ("turns", "threatexchange", "nearest-512")
QUERY_FORMS: list[AnyForm] = [form for kind, form in RECIPES if kind == "pdq" and form not in FORMS]


def pdqs(content: bytes, forms: tuple[FormGroup, ...] = ()) -> dict[str, Fingerprint]:
    found = scan(content, None, LIMITS, forms).fingerprints
    return {one.form: one for one in found if one.kind == "pdq"}


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def threatexchange(content: bytes) -> tuple[str, int]:
    """A file's hash as python-threatexchange makes it."""
    image: Image.Image = Image.open(BytesIO(content))
    if image.mode in ("LA", "I;16"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, np.newaxis], 3, axis=2)
    bits, quality = pdqhash.compute(array)
    return np.packbits(bits).tobytes().hex(), int(quality)


def test_only_the_canonical_form_is_computed_unasked() -> None:
    assert list(pdqs(encode(photo(), "JPEG"))) == ["canonical"]
    assert list(pdqs(encode(photo(), "JPEG"), ALL)) == ["canonical", *TURNS]


def test_dihedral_turns_are_those_of_the_reference_by_recipes_of_their_own() -> None:
    content = encode(photo(), "PNG")
    found = scan(content, None, LIMITS, ("dihedral", "turns")).fingerprints
    by_recipe = {one.recipe: one for one in found if one.kind == "pdq"}
    assert len(by_recipe) == 1 + 2 * len(TURNS)
    dihedral = [by_recipe[f"pdq/dihedral-{turn}/1"] for turn in TURNS]
    assert [one.form for one in dihedral] == list(TURNS)
    hashes, quality = pdqhash.compute_dihedral(np.asarray(Image.open(BytesIO(content))))
    assert {one.value for one in dihedral} == {np.packbits(bits).tobytes().hex() for bits in hashes[1:]}
    assert {one.quality for one in dihedral} == {quality}


def test_no_set_can_ask_for_dihedral_turns() -> None:
    """They are far from the turned picture: a set that looked them up would miss, and find at random."""
    with pytest.raises(Usage, match="no form 'dihedral'"):
        read_forms("turns,dihedral", get_args(SetForm))
    assert read_forms("dihedral, turns", get_args(FormGroup)) == ("turns", "dihedral")
    with pytest.raises(msgspec.ValidationError, match="dihedral"):
        msgspec.convert({"name": "a", "owner": "o", "origin": "own-review", "forms": ["dihedral"]}, Set)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_form_is_that_of_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(photo(size=(700, 500)), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    found = pdqs(content)
    if orientation == 1:
        assert list(found) == ["canonical"]
    else:
        assert distance(found["upright"].value, pdqs(encode(upright, "PNG"))["canonical"].value) <= 2
        assert found["upright"].recipe == "pdq/upright/1"


def test_broken_exif_hides_no_picture() -> None:
    content = encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x02\0\xff\xff\xff\xff" * 3)
    assert list(pdqs(content)) == ["canonical"]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("te-palette", encode(photo().convert("P"), "GIF")),
        ("te-palette", encode(photo().convert("P"), "PNG")),
        ("te-cmyk", encode(photo().convert("CMYK"), "JPEG")),
        ("te-1bit", encode(photo().convert("1"), "PNG")),
        ("te-16bit", encode(Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG")),
    ],
)
def test_a_misread_file_is_misread_as_python_threatexchange_does(form: str, content: bytes) -> None:
    found = pdqs(content, ("threatexchange",))
    assert list(found) == ["canonical", form]
    assert (found[form].value, found[form].quality) == threatexchange(content)
    assert list(pdqs(content)) == ["canonical"]


def test_a_plain_picture_is_not_misread() -> None:
    for mode in ("RGB", "L", "LA", "RGBA"):
        content = encode(photo().convert(mode), "PNG")
        found = pdqs(content, ("threatexchange",))
        assert list(found) == ["canonical"]
        assert (found["canonical"].value, found["canonical"].quality) == threatexchange(content)


def test_nearest_512_is_a_form_of_large_pictures() -> None:
    large = pdqs(encode(photo(size=(800, 300)), "PNG"), ("nearest-512",))
    squashed = photo(size=(800, 300)).resize((512, 512), Image.Resampling.NEAREST)
    # Pillow takes a pixel's middle where CImg takes its corner: near, not the same.
    assert distance(large["nearest-512"].value, pdqs(encode(squashed, "PNG"))["canonical"].value) <= 31
    assert list(pdqs(encode(photo(size=(512, 300)), "PNG"), ("nearest-512",))) == ["canonical"]


@pytest.mark.parametrize("size", [(512, 512), (1025, 1100), (2100, 2300), (4100, 4099)])
def test_fast_stands_in_for_canonical_and_is_near(size: tuple[int, int]) -> None:
    content = encode(photo(size=size), "JPEG", quality=80)
    found, exact = pdqs(content, ("fast", "turns")), pdqs(content, ("turns",))
    assert list(found) == ["fast", *TURNS]
    assert distance(found["fast"].value, exact["canonical"].value) <= 4
    assert all(distance(found[turn].value, exact[turn].value) <= 8 for turn in TURNS)


@pytest.mark.parametrize(
    "content",
    [
        encode(photo(), "PNG"),
        encode(photo().convert("CMYK"), "JPEG"),
        encode(Image.new("RGB", (600, 600), "red"), "JPEG"),
        encode(photo(), "JPEG")[:-4000],
    ],
    ids=["no jpeg", "cmyk", "flat", "truncated"],
)
def test_what_can_not_be_had_fast_is_canonical(content: bytes) -> None:
    assert pdqs(content, ("fast",)) == pdqs(content)


@given(wanted=st.sets(st.sampled_from(sorted(set(GROUPS.values())))), form=st.sampled_from(["canonical", *QUERY_FORMS]))
def test_a_form_hits_canonical_entries_of_the_sets_that_want_it(wanted: set[FormGroup], form: AnyForm) -> None:
    value = "0f" * 32
    view = ListView(entries=[make_entry(value)], sets={"own": make_set(forms=tuple(sorted(wanted)))})
    one = Fingerprint(kind="pdq", form=form, recipe=RECIPES["pdq", form], value=value, quality=100)
    near = lookup(view, [one])
    assert bool(near) == (form not in GROUPS or GROUPS[form] in wanted)
    if near:
        checked = Scan(media_class="image", media_type=None, fingerprints=(one,), checked={"pdq": "ok"})
        (hit,) = decide(Upload(source="s", id="1"), checked, near, view).hits
        assert (hit.form, hit.distance) == (form, 0)


def test_a_form_that_one_set_does_not_want_hides_no_hit_of_another() -> None:
    value = "0f" * 32
    entries = [make_entry(value, set_name="plain"), make_entry(value, set_name="turning", number=2)]
    sets = {"plain": make_set("plain"), "turning": make_set("turning", forms=("turns",))}
    turned = Fingerprint(kind="pdq", form="transpose", recipe="pdq/transpose/1", value=value, quality=100)
    assert [near.entry.set for near in lookup(ListView(entries=entries, sets=sets), [turned])] == ["turning"]


def test_wanted_forms() -> None:
    def wanted(*sets: Set) -> tuple[FormGroup, ...]:
        return wanted_forms({one.name: one for one in sets})

    both = make_set("a", forms=("turns", "fast"))
    assert wanted() == ()
    assert wanted(both) == ("fast", "turns")
    assert wanted(both, make_set("b", state="off")) == ("fast", "turns")
    # Whoever did not ask for `fast` gets the canonical form, and then everybody does.
    assert wanted(both, make_set("b", forms=("nearest-512",))) == ("nearest-512", "turns")


def test_a_view_of_low_quality_leaves_the_picture_checked() -> None:
    main = Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value="0f" * 32, quality=90)
    view_ = Fingerprint(kind="pdq", form="te-1bit", recipe="pdq/te-1bit/1", value="f0" * 32, quality=0)
    seen = Scan(media_class="image", media_type=None, fingerprints=(main, view_), checked={"pdq": "ok"})
    view = ListView(entries=[make_entry("00" * 32)], sets={"own": make_set()})
    assert decide(Upload(source="s", id="1"), seen, [], view).outcome == "clear"


def test_other_views_alone_were_no_check() -> None:
    turned = Fingerprint(kind="pdq", form="transpose", recipe="pdq/transpose/1", value="0f" * 32, quality=100)
    upload = Upload(source="s", id="1", media_type="image/png", fingerprints=(turned,))
    assert given_scan(upload).checked["pdq"] == "not_provided"
