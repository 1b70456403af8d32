"""What a canary is, and that it touches nobody else's verdict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hashweir.canary import CANARY_PDQ, CANARY_SET, CANARY_SOURCE, CANARY_TYPE, is_canary, picture
from hashweir.hashing import HASHERS
from hashweir.model import Judged, Limits, Record, Set, Upload, Verdict
from hashweir.pipeline.decide import decide
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.lookup import lookup, wanted_forms
from hashweir.pipeline.scan import prepare
from tests.unit.pipeline.views import ListView, make_entry, make_set

TOKEN = "0123456789abcdef"
scan = prepare(Limits())


def canary(content: bytes | None = None, source: str = CANARY_SOURCE) -> Upload:
    body = picture(TOKEN) if content is None else content
    return Upload(source=source, id="1", media_type=CANARY_TYPE, content=body)


def world() -> ListView:
    """The canary's set, and one whose entry is the very same hash."""
    own = make_set(CANARY_SET, ceiling="none", radius={"pdq": 10, "tlsh": 0})
    entries = [make_entry(CANARY_PDQ, set_name=CANARY_SET, number=1), make_entry(CANARY_PDQ, number=2)]
    return ListView(entries=entries, sets={CANARY_SET: own, "own": make_set()})


def judge(upload: Upload, view: ListView) -> Verdict:
    scanned = scan(upload.content or b"", upload.media_type, ())
    return decide(upload, scanned, lookup(view, scanned.fingerprints, scanned.notes), view)


def test_the_picture_has_the_hash_that_is_looked_for() -> None:
    """Well within the radius on any machine, of full quality, whatever the token."""
    for token in (TOKEN, "f" * 16):
        (pdq,) = [one for one in scan(picture(token), CANARY_TYPE, ()).fingerprints if one.kind == "pdq"]
        hasher = HASHERS["pdq"]
        assert hasher.distance(hasher.parse(pdq.value), hasher.parse(CANARY_PDQ)) <= 2
        assert pdq.quality == 100
    assert picture(TOKEN) != picture("f" * 16), "or the scan cache would answer"


def test_a_canary_is_found_by_its_own_set_alone_and_recommends_nothing() -> None:
    """Also where a set of the platform's holds the same hash."""
    verdict = judge(canary(), world())
    assert (verdict.outcome, verdict.action) == ("match", "none")
    assert [hit.set for hit in verdict.hits] == [CANARY_SET]
    assert list(verdict.sets) == [CANARY_SET]


def test_the_same_picture_from_anybody_else_is_judged_by_the_sets_of_the_platform() -> None:
    """The canary's set is invisible to real uploads: no hit of it, and it does not count as an active set."""
    verdict = judge(canary(source="platform"), world())
    assert [hit.set for hit in verdict.hits] == ["own"]
    without = ListView(entries=world().entries, sets={CANARY_SET: world().sets[CANARY_SET]})
    assert judge(canary(source="platform"), without).reason == "no_active_set"


@given(st.data())
def test_who_claims_to_be_a_canary_has_to_be_one(data: st.DataObject) -> None:
    """The source alone opens no way past the sets: one byte that differs, other than the token, and it is traffic."""
    good = picture(TOKEN)
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    forged = good[:at] + bytes([other]) + good[at + 1 :]
    assert not is_canary(canary(forged))
    assert not is_canary(canary(good + b"x"))
    assert not is_canary(canary(good[:at]))
    assert is_canary(canary())
    assert not is_canary(Upload(source=CANARY_SOURCE, id="1"))


def test_a_forged_canary_is_judged_by_all_sets_but_the_canarys() -> None:
    """A known file behind the canary's name is still found."""
    forged = canary(picture(TOKEN) + b"x")
    assert [hit.set for hit in judge(forged, world()).hits] == ["own"]


def test_the_canarys_set_asks_for_no_other_scan() -> None:
    """`fast` is computed only where all sets want it: this one has no say."""
    sets: dict[str, Set] = {CANARY_SET: make_set(CANARY_SET), "own": make_set(forms=("fast",))}
    assert wanted_forms(sets) == ("fast",)


def test_of_a_canary_only_the_verdict_is_written() -> None:
    """Neither a match, which people act on, nor a dead letter."""
    emitter = Emitter(worker="w", versions={})
    record = Record(topic="uploads", partition=0, offset=0, timestamp_ms=1, value=picture(TOKEN))
    verdict = judge(canary(), world())
    for failure in (None, "scan_died"):
        judged = Judged(verdict=verdict, failure=failure, as_of_ms=1, degraded=False, timings={})
        assert [one.topic for one in emitter.messages(judged, canary(), record)] == ["verdicts"]
        assert len(emitter.messages(judged, canary(source="platform"), record)) == 2 + (failure is not None)
