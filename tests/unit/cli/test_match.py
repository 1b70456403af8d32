"""How a verdict is told to a person, and how a bare hash becomes an upload."""

import pytest

from hashweir.cli import Usage
from hashweir.cli.match import explain, explain_hit, hash_upload
from hashweir.model import Action, Hit, HitState, Outcome, Verdict

PDQ = "0f" * 32
TLSH = "T1" + "0A" * 35


def hit(action: Action = "review", state: HitState = "active", distance: int = 14) -> Hit:
    return Hit(
        id="1" * 32,
        kind="pdq",
        form="canonical",
        set="north",
        entry="ab" * 16,
        item="cd" * 8,
        distance=distance,
        radius=31,
        band="b",
        quality=100,
        entry_quality=90,
        origin="own-review",
        labels=("propaganda",),
        ceiling="review",
        action=action,
        state=state,
    )


def verdict(
    outcome: Outcome, *hits: Hit, action: Action = "none", reason: str | None = None, notes: tuple[str, ...] = ()
) -> Verdict:
    return Verdict(
        id="0" * 32,
        source="cli",
        upload="u",
        sha256=None,
        media_type=None,
        media_class="image",
        surface=None,
        account=None,
        outcome=outcome,
        action=action,
        reason=reason,
        checked={},
        notes=notes,
        hits=hits,
        hits_total=len(hits),
        fingerprints=(),
        sets={"north": 1},
        position="",
    )


def test_a_hit_says_all_that_explains_it() -> None:
    """Set, origin, entry, distance of radius, band, qualities, labels, and what is recommended."""
    told = explain_hit(hit())
    for part in ("set north", "own-review", "entry abababab", "pdq distance 14 of 31", "band b", "quality 100 and 90"):
        assert part in told
    assert "propaganda" in told
    assert "recommends review (ceiling review)" in told


def test_a_match_leaves_the_decision_to_a_person() -> None:
    """hashweir recommends; a person decides."""
    lines = explain("photo.jpg", verdict("match", hit(), action="review"))
    assert lines[0] == "photo.jpg: match, recommended: review (a person decides)"
    assert len(lines) == 2


def test_unscanned_is_told_apart_from_clear() -> None:
    """Who reads "unscanned" can't take it for "clear", and sees the reason and its code."""
    (line,) = explain("x", verdict("unscanned", reason="undecodable"))
    assert "not the same as clear" in line
    assert "[undecodable]" in line
    (clear,) = explain("x", verdict("clear", notes=("exact_only",)))
    assert "clear of north" in clear
    assert "exact hashes only" in clear


def test_a_shadow_hit_recommends_nothing() -> None:
    """It is shown, and said to count only."""
    assert "recommends nothing" in explain_hit(hit(state="shadow"))


def test_a_bare_hash_becomes_an_upload_of_fingerprints() -> None:
    """Through the same reader as a record; a tlsh is looked up under both of its forms."""
    (one,) = hash_upload(f"pdq:{PDQ.upper()}").fingerprints
    assert (one.kind, one.form, one.value) == ("pdq", "canonical", PDQ)
    assert {one.form for one in hash_upload(f"tlsh:{TLSH}").fingerprints} == {"raw", "normal"}


@pytest.mark.parametrize("text", ["pdq", "pdq:", "pdq:zz", "nope:00", f"md5:{PDQ}", ":", ""])
def test_a_malformed_hash_is_usage(text: str) -> None:
    """The command line is wrong, not the store: exit code 2."""
    with pytest.raises(Usage):
        hash_upload(text)
