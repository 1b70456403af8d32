"""Laws of the set policy: what makes a match, what may be called clear, and that nothing ever raises an action."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import REASONS
from hashweir.model import ACTIONS, Action, Fingerprint, Scan, Set, Upload, Verdict
from hashweir.pipeline.decide import decide, hit_id, verdict_id
from hashweir.pipeline.lookup import lookup
from hashweir.ports import Standing
from tests.unit.pipeline.views import ListView, flip, make_entry, make_set

HASH = "0f" * 32
UPLOAD = Upload(source="s", id="u")
ORDER = ACTIONS.index


def pdq(value: str = HASH, quality: int = 100) -> Fingerprint:
    return Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value=value, quality=quality)


def image(*fingerprints: Fingerprint, **fields: object) -> Scan:
    plain = {
        "media_class": "image",
        "media_type": "image/png",
        "fingerprints": fingerprints,
        "checked": {"pdq": "ok", "sha256": "ok", "md5": "ok"},
    }
    return Scan(**{**plain, **fields})  # type: ignore[arg-type]


def judge(scan: Scan, view: ListView, upload: Upload = UPLOAD) -> Verdict:
    return decide(upload, scan, lookup(view, scan.fingerprints), view)


@pytest.mark.parametrize(("bits", "band"), [(0, "a"), (10, "a"), (11, "b"), (20, "b"), (21, "c"), (31, "c")])
def test_band_follows_distance(bits: int, band: str) -> None:
    """A PDQ distance decides the band, and 0 is never `exact`."""
    verdict = judge(image(pdq(flip(HASH, bits))), ListView([make_entry(HASH)], {"own": make_set()}))
    assert verdict.outcome == "match"
    assert (verdict.hits[0].distance, verdict.hits[0].band) == (bits, band)


def test_radius_is_inclusive() -> None:
    """31 is within a radius of 31; 32 is not."""
    verdict = judge(image(pdq(flip(HASH, 32))), ListView([make_entry(HASH)], {"own": make_set()}))
    assert verdict.outcome == "clear"


def test_exact_file_is_band_exact() -> None:
    """A SHA-256 that is equal is band `exact`; an MD5 alone never goes above review."""
    sha = Fingerprint(kind="sha256", form="canonical", recipe="sha256/canonical/1", value="ab" * 32)
    md5 = Fingerprint(kind="md5", form="canonical", recipe="md5/canonical/1", value="cd" * 16)
    known = [make_entry("ab" * 32, "sha256", number=1), make_entry("cd" * 16, "md5", number=2)]
    actions = {"exact": "block", "a": "block", "b": "block", "c": "block"}
    view = ListView(known, {"own": make_set(ceiling="block", actions=actions)})
    verdict = judge(image(sha, md5), view)
    assert {(hit.kind, hit.band, hit.action) for hit in verdict.hits} == {
        ("sha256", "exact", "block"),
        ("md5", "exact", "review"),
    }


actions = st.sampled_from(ACTIONS)
policies = st.builds(
    make_set,
    name=st.sampled_from(["own", "other", "third"]),
    state=st.sampled_from(["shadow", "active", "off"]),
    ceiling=actions,
    actions=st.fixed_dictionaries({"exact": actions, "a": actions, "b": actions, "c": actions}),
    radius=st.fixed_dictionaries({"pdq": st.integers(0, 64)}),
    surfaces=st.sampled_from([(), ("post",), ("profile-image", "banner")]),
    min_quality=st.sampled_from([0, 50, 80]),
    origin=st.sampled_from(["own-review", "government-referral"]),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Scan, ListView, Upload]:
    sets = {one.name: one for one in draw(st.lists(policies, max_size=3))}
    names = st.sampled_from(["own", "other", "third"])
    entries = [
        make_entry(flip(HASH, draw(st.integers(0, 70))), set_name=draw(names), number=number)
        for number in range(1, draw(st.integers(1, 6)))
    ]
    entries = [one for one in entries if one.set in sets]
    standing: Standing = draw(st.sampled_from(["verified", "degraded"]))
    reason = draw(st.sampled_from([None, None, "scan_died"]))
    checked = {"pdq": draw(st.sampled_from(["ok", "ok", "truncated"])), "sha256": "ok", "md5": "ok"}
    scan = image(pdq(quality=draw(st.sampled_from([20, 60, 100]))), checked=checked, reason=reason)
    upload = Upload(source="s", id="u", surface=draw(st.sampled_from([None, "post", "banner"])))
    return scan, ListView(entries, sets, standing=standing), upload


@given(cases())
def test_shadow_and_off_never_change_anything(case: tuple[Scan, ListView, Upload]) -> None:
    """Taking all sets that are not active away changes neither outcome nor action nor reason."""
    scan, view, upload = case
    active = {name: one for name, one in view.sets.items() if one.state == "active"}
    bare = ListView([one for one in view.entries if one.set in active], active, standing=view.standing)
    left, right = judge(scan, view, upload), judge(scan, bare, upload)
    assert (left.outcome, left.action, left.reason) == (right.outcome, right.action, right.reason)


@given(cases())
def test_no_action_above_any_ceiling(case: tuple[Scan, ListView, Upload]) -> None:
    """Every hit's action stays under its set's ceiling, under review while degraded or by a government's word."""
    scan, view, upload = case
    verdict = judge(scan, view, upload)
    for hit in verdict.hits:
        owner = view.sets[hit.set]
        bounds: list[Action] = [owner.ceiling, hit.ceiling, owner.actions[hit.band]]
        if view.standing == "degraded" or owner.origin == "government-referral":
            bounds.append("review")
        if owner.surfaces and upload.surface is None:
            bounds.append("log")
        assert all(ORDER(hit.action) <= ORDER(bound) for bound in bounds)
        assert hit.distance <= owner.radius["pdq"]
        assert not owner.surfaces or upload.surface is None or upload.surface in owner.surfaces
    strongest = max((ORDER(hit.action) for hit in verdict.hits if hit.state == "active"), default=0)
    assert ORDER(verdict.action) == strongest


@given(cases())
def test_clear_means_checked(case: tuple[Scan, ListView, Upload]) -> None:
    """`clear` needs no active hit, no scan failure, an active set that holds hashes, and every one of them checked."""
    scan, view, upload = case
    verdict = judge(scan, view, upload)
    active = [one for one in view.sets.values() if one.state == "active"]
    if verdict.outcome == "clear":
        assert scan.reason is None
        assert verdict.checked["pdq"] == "ok"
        assert any(view.holds(one.name) for one in active)
        assert all(scan.fingerprints[0].quality >= one.min_quality for one in active if verdict.sets.get(one.name))  # type: ignore[operator]
    if verdict.outcome == "unscanned":
        assert verdict.reason in REASONS
    else:
        assert verdict.reason is None
    assert (verdict.outcome == "match") == any(hit.state == "active" for hit in verdict.hits)


@given(cases(), st.randoms())
def test_same_input_same_body(case: tuple[Scan, ListView, Upload], random: object) -> None:
    """The body does not depend on the order in which entries and sets happen to lie."""
    scan, view, upload = case
    entries, names = list(view.entries), list(view.sets)
    random.shuffle(entries)  # type: ignore[attr-defined]
    random.shuffle(names)  # type: ignore[attr-defined]
    turned = ListView(entries, {name: view.sets[name] for name in names}, standing=view.standing)
    encode = msgspec.json.Encoder(order="deterministic").encode
    assert encode(judge(scan, view, upload)) == encode(judge(scan, turned, upload))


def test_no_active_set() -> None:
    """Without an active set that holds hashes of the class there is no `clear`."""
    shadow = {"own": make_set(state="shadow")}
    for view in (ListView(), ListView([make_entry(HASH)], shadow), ListView([], {"own": make_set()})):
        verdict = judge(image(pdq("ff" * 32)), view)
        assert (verdict.outcome, verdict.reason) == ("unscanned", "no_active_set")


def test_exact_only() -> None:
    """A class with only exact kinds active is clear, and says so."""
    sha = Fingerprint(kind="sha256", form="canonical", recipe="sha256/canonical/1", value="ab" * 32)
    view = ListView([make_entry("cd" * 32, "sha256")], {"own": make_set()})
    verdict = judge(image(sha), view)
    assert (verdict.outcome, verdict.notes) == ("clear", ("exact_only",))


def test_low_quality_is_not_clear() -> None:
    """A picture under the floor is not looked up by PDQ, and not called clear."""
    verdict = judge(image(pdq(quality=49)), ListView([make_entry(HASH)], {"own": make_set()}))
    assert (verdict.outcome, verdict.reason, verdict.checked["pdq"]) == ("unscanned", "low_quality", "low_quality")


def test_truncated_matches_or_is_unscanned() -> None:
    """A truncated picture still matches; without a hit it is unscanned."""
    cut = {"pdq": "truncated", "sha256": "ok", "md5": "ok"}
    view = ListView([make_entry(HASH)], {"own": make_set()})
    assert judge(image(pdq(), checked=cut), view).outcome == "match"
    miss = judge(image(pdq("ff" * 32), checked=cut), view)
    assert (miss.outcome, miss.reason) == ("unscanned", "truncated")


def test_one_hit_per_item_and_set() -> None:
    """An item's nearest entry speaks for it; the total is that of items, not of entries."""
    known = [make_entry(flip(HASH, bits), number=bits + 1, item="aa" * 8) for bits in (3, 7, 12)]
    known.append(make_entry(flip(HASH, 5), number=99))
    verdict = judge(image(pdq()), ListView(known, {"own": make_set()}))
    assert [hit.distance for hit in verdict.hits] == [3, 5]
    assert verdict.hits_total == 2


def test_hits_are_capped_but_counted() -> None:
    """At most 100 hits are listed; the true total is told."""
    known = [make_entry(flip(HASH, number % 30), number=number) for number in range(1, 151)]
    verdict = judge(image(pdq()), ListView(known, {"own": make_set()}))
    assert (len(verdict.hits), verdict.hits_total) == (100, 150)


def test_fingerprints_of_hits_only() -> None:
    """A verdict without hits carries no fingerprints: they could be turned back into pictures."""
    view = ListView([make_entry(HASH)], {"own": make_set()})
    assert judge(image(pdq("ff" * 32)), view).fingerprints == ()
    assert judge(image(pdq()), view).fingerprints == (pdq(),)


def test_length_of_texts() -> None:
    """A known text's length bounds the upload's; where it is unknown, the hit is marked and only logged."""
    value = "T1" + "0A" * 35
    near = Fingerprint(kind="tlsh", form="normal", recipe="tlsh/normal/1", value=value, length=1000)
    scan = Scan(media_class="text", media_type="text/plain", fingerprints=(near,), checked={"tlsh": "ok"})
    sets: dict[str, Set] = {"own": make_set()}
    fits, far, unknown = (make_entry(value, "tlsh", length=length) for length in (900, 2000, None))
    assert judge(scan, ListView([fits], sets)).hits[0].action == "review"
    assert judge(scan, ListView([far], sets)).outcome == "clear"
    marked = judge(scan, ListView([unknown], sets)).hits[0]
    assert (marked.length_unknown, marked.action) == (True, "log")


def test_ids_are_derived() -> None:
    """Ids are 32 hex and differ wherever a part does, also where parts only run together."""
    ids = [verdict_id(*parts) for parts in itertools.product(("a", "ab"), ("c", "bc"))]
    assert len(set(ids)) == 4
    assert all(len(one) == 32 for one in ids)
    assert hit_id(ids[0], "s", "e", "pdq") != hit_id(ids[0], "s", "e", "tlsh")


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=6),
    st.integers(0, 100),
    st.sampled_from([None, "undecodable"]),
    st.sampled_from(["active", "shadow", "off"]),
)
def test_a_part_of_the_shards_never_clears(
    known: list[tuple[int, bool]], quality: int, reason: str | None, state: str
) -> None:
    """Whatever is held and asked: what a part finds the whole finds too, and the rest is never clear."""
    entries = [(make_entry(flip(HASH, bits), number=number + 1), held) for number, (bits, held) in enumerate(known)]
    sets = {"own": make_set(state=state)}
    scan = image(pdq(quality=quality), reason=reason)
    whole = judge(scan, ListView([entry for entry, _ in entries], sets))
    part = judge(scan, ListView([entry for entry, held in entries if held], sets, missing="4-15/16"))
    assert part.outcome in ("match", "unscanned")
    assert part.outcome == "unscanned" or whole.outcome == "match"
    assert ORDER(part.action) <= ORDER(whole.action)
    assert part.reason == (None if part.outcome == "match" else reason or "shards_missing")
    assert "shards_missing:4-15/16" in part.notes
    assert "ok" not in part.checked.values()
