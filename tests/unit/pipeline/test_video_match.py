"""Laws of judging videos: when frame hits are a match, what is told of them, and what a part of a video is worth."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.model import Entry, Fingerprint, Footage, Scan, Set, Upload, Verdict
from hashweir.pipeline.decide import MAX_HITS, decide
from hashweir.pipeline.lookup import lookup
from hashweir.pipeline.match import given as given_scan
from tests.unit.pipeline.views import ListView, flip, make_entry, make_set

UPLOAD = Upload(source="s", id="u")
CLIP = "00000000000000aa"
OTHER = "00000000000000bb"


def value(number: int) -> str:
    """Values far from each other."""
    return random.Random(number).randbytes(32).hex()


def frame(number: int, second: float, quality: int = 100, frames: int = 1) -> Fingerprint:
    return Fingerprint(
        kind="pdq",
        form="canonical",
        recipe="pdq/canonical/1",
        value=value(number),
        quality=quality,
        time_s=second,
        until_s=second + frames - 1,
        frames=frames,
    )


def video(*frames: Fingerprint, share_checked: float = 1.0) -> Scan:
    word = "ok" if share_checked == 1.0 else "partial"
    return Scan(
        media_class="video",
        media_type="video/mp4",
        fingerprints=frames,
        checked={"pdq": word, "sha256": "ok", "md5": "ok"},
        footage=Footage(duration_s=60, frames=len(frames), every_s=1, share_checked=share_checked),
    )


def known(numbers: range, item: str = CLIP, set_name: str = "own") -> list[Entry]:
    return [make_entry(value(number), number=1000 + number, item=item, set_name=set_name) for number in numbers]


def judge(scan: Scan, entries: list[Entry], *sets: Set) -> Verdict:
    view = ListView(entries, {one.name: one for one in sets or (make_set(),)})
    return decide(UPLOAD, scan, lookup(view, scan.fingerprints), view)


@given(
    hit=st.integers(0, 20),
    extra=st.integers(0, 20),
    more_known=st.integers(0, 20),
    share=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    of_known=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_both_shares_decide(hit: int, extra: int, more_known: int, share: float, of_known: float) -> None:
    """A match where both shares are reached; else the hit is listed, recommends nothing, and the video is clear."""
    frames = [frame(number, number) for number in range(hit)] + [frame(500 + n, 100 + n) for n in range(extra)]
    entries = known(range(hit)) + known(range(300, 300 + more_known)) + known(range(900, 901), OTHER)
    policy = make_set(video_share_upload=share, video_share_known=of_known)
    verdict = judge(video(*frames) if frames else video(), entries, policy)
    if not hit:
        assert verdict.hits == ()
        return
    (one,) = verdict.hits
    assert one.share_upload == round(hit / (hit + extra), 4)
    assert one.share_known == round(hit / (hit + more_known), 4)
    enough = one.share_upload >= share and one.share_known >= of_known
    assert verdict.outcome == ("match" if enough else "clear")
    assert (one.state, verdict.action) == (("active", "hold") if enough else ("below_share", "none"))
    assert one.times == ((0, hit - 1),)


def test_shares_count_frames_not_fingerprints() -> None:
    """A still kept once stands for all of its frames."""
    verdict = judge(video(frame(1, 0, frames=9), frame(500, 9)), known(range(1, 2)))
    assert verdict.hits[0].share_upload == 0.9
    assert verdict.hits[0].times == ((0, 8),)


def test_frames_under_the_floor_are_evidence_of_nothing() -> None:
    """Black frames neither hit nor thin out the share; a video of nothing else is not clear."""
    black = [frame(700 + n, 50 + n, quality=3) for n in range(30)]
    verdict = judge(video(frame(1, 0), *black), known(range(1, 2)) + known(range(700, 701), OTHER))
    assert [(one.item, one.share_upload) for one in verdict.hits] == [(CLIP, 1.0)]
    verdict = judge(video(*black), known(range(1, 2)))
    assert (verdict.outcome, verdict.reason) == ("unscanned", "low_quality")


def test_times_are_stretches() -> None:
    """Neighbouring frames are one stretch; a gap begins another."""
    verdict = judge(video(*(frame(1, second) for second in (3, 4, 5, 20, 21))), known(range(1, 2)))
    assert verdict.hits[0].times == ((3, 5), (20, 21))


def test_a_part_is_a_match_or_unscanned_never_clear() -> None:
    """Out of time: what was found counts; nothing found is no all-clear, and says how much was looked at."""
    found = judge(video(frame(1, 0), share_checked=0.1), known(range(1, 2)))
    assert found.outcome == "match"
    nothing = judge(video(frame(2, 0), share_checked=0.1), known(range(1, 2)))
    assert (nothing.outcome, nothing.reason) == ("unscanned", "partial")
    assert nothing.footage is not None
    assert nothing.footage.share_checked == 0.1


def test_each_set_has_its_own_shares() -> None:
    """The same frames are a match for one set and not for another, and an exact hash needs no share."""
    strict, lax = make_set("own"), make_set("lax", video_share_upload=0.0, ceiling="review")
    frames = [frame(1, 0), *(frame(500 + n, 1 + n) for n in range(9))]
    verdict = judge(video(*frames), known(range(1, 2)) + known(range(1, 2), set_name="lax"), strict, lax)
    assert {one.set: one.state for one in verdict.hits} == {"own": "below_share", "lax": "active"}
    assert verdict.action == "review"
    assert verdict.hits[0].set == "lax"
    sha = Fingerprint(kind="sha256", form="canonical", recipe="sha256/canonical/1", value="ab" * 32)
    entries = [*known(range(1, 2)), make_entry("ab" * 32, "sha256", number=7, item=CLIP)]
    verdict = judge(video(*frames, sha), entries, strict)
    assert [(one.kind, one.state) for one in verdict.hits] == [("sha256", "active")]


def test_the_nearest_pair_stands_for_the_item_and_only_frames_that_hit_are_told() -> None:
    """One hit per item and set; of 20 frames, those that hit are in the verdict."""
    near = msgspec.structs.replace(frame(1, 1), value=flip(value(1), 4))
    frames = [frame(500, 0), near, msgspec.structs.replace(frame(2, 2), value=flip(value(2), 9))]
    verdict = judge(video(*frames), known(range(1, 3)), make_set(video_share_upload=0.5))
    assert [one.distance for one in verdict.hits] == [4]
    assert verdict.fingerprints == tuple(frames[1:])


def test_hits_stay_few() -> None:
    """However many items a frame is known from, a verdict lists a hundred and counts all."""
    entries = [make_entry(value(1), number=n, item=f"{n:016x}") for n in range(1, 151)]
    verdict = judge(video(frame(1, 0)), entries)
    assert (len(verdict.hits), verdict.hits_total) == (MAX_HITS, 150)


def test_frames_without_times_are_one_a_second() -> None:
    """A platform that hashes at home may send vPDQ frames as they are."""
    bare = [Fingerprint(kind="pdq", form="canonical", recipe="r", value=value(n), quality=90) for n in (1, 2, 500, 501)]
    scan = given_scan(Upload(source="s", id="u", media_type="video/mp4", fingerprints=tuple(bare)))
    assert [one.time_s for one in scan.fingerprints] == [0, 1, 2, 3]
    verdict = judge(scan, known(range(1, 3)))
    assert verdict.outcome == "clear" or verdict.hits[0].state == "below_share"
    assert verdict.hits[0].share_upload == 0.5


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    """Policies come from outside."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "a", "owner": "o", "origin": "own-review", "video_share_upload": share}, Set)
