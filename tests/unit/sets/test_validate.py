"""What may enter a set, and that the report adds up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import REASONS, InputError
from hashweir.model import Entry, Set
from hashweir.sets.read import Rejection, Row
from hashweir.sets.validate import BULK, FIRST_REJECTIONS, FORMS_OF, Change, Report, Validator, batch_id
from hashweir.shards.layout import entry_id, item_id, pack, unpack

INTO = Set(name="demo", number=3, owner="team", origin="own-review")
PDQ = hashlib.sha256(b"a picture").hexdigest()
MD5 = hashlib.md5(b"a file", usedforsecurity=False).hexdigest()
TLSH = "T1" + hashlib.sha512(b"a text").hexdigest()[:70].upper()


def judge(*rows: Row | Rejection, into: Set = INTO) -> tuple[list[Change | Rejection], Report]:
    validator = Validator(into, principal="tester", now_ms=1_000)
    verdicts = [verdict for _, verdict in validator.check(enumerate(rows, 1))]
    return verdicts, validator.report()


def entry(row: Row, into: Set = INTO) -> Entry:
    ((verdict,), _) = judge(row, into=into)
    assert isinstance(verdict, Change), verdict
    return verdict.entry


def reason(row: Row, into: Set = INTO) -> str:
    ((verdict,), _) = judge(row, into=into)
    assert isinstance(verdict, Rejection), verdict
    return verdict.reason


anything = st.builds(
    Row,
    kind=st.sampled_from(["pdq", "md5", "tlsh", "text", "sha256", "PDQ ", "video_md5", "raw_text", "", "x"]),
    value=st.sampled_from([PDQ, MD5, TLSH, TLSH.lower(), "", "00" * 32, f" {PDQ.upper()} "]) | st.text(max_size=70),
    form=st.sampled_from(["", "raw", "normal", "canonical", "x"]),
    item=st.text(max_size=30),
    labels=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    note=st.text(max_size=10),
    origin=st.sampled_from(["", "own-review", "government-referral", "x"]),
    state=st.sampled_from(["", "active", "shadow", "retired", "x"]),
    quality=st.none() | st.integers(-1, 101),
    length=st.none() | st.integers(-1, 2**33),
)


@given(st.lists(anything, max_size=12))
def test_every_row_is_accepted_or_refused_with_a_known_reason(rows: list[Row]) -> None:
    verdicts, report = judge(*rows)
    assert report.rows == len(rows) == len(verdicts)
    assert report.accepted == sum(isinstance(v, Change) for v in verdicts)
    assert report.rows == report.accepted + report.refused
    assert set(report.rejected) <= REASONS.keys()
    accepted = [v for v in verdicts if isinstance(v, Change)]
    assert len({v.entry.id for v in accepted}) == len(accepted)
    for change in accepted:
        # What is accepted can be stored and read back: nothing fails later that could be said now.
        image, side = pack(change.entry, INTO.number)
        back = unpack(change.entry.kind, image, side, {INTO.number: INTO.name})
        long_name = len(change.entry.item_name.encode()) > 18
        assert back == change.entry or (long_name and back.item == change.entry.item)


@given(st.lists(anything, max_size=8))
def test_judging_is_the_same_every_time(rows: list[Row]) -> None:
    assert judge(*rows) == judge(*rows)


def test_ids_and_defaults() -> None:
    plain = entry(Row(kind=" PDQ", value=PDQ.upper()))
    assert plain.id == entry_id("demo", "pdq", "canonical", bytes.fromhex(PDQ))
    assert (plain.value, plain.form, plain.state, plain.item_name) == (PDQ, "canonical", "active", "")
    assert plain.item == plain.id[:16]
    assert entry(Row(kind="pdq", value=PDQ, item=" march ")).item == item_id("demo", "march")
    assert entry(Row(kind="text_tlsh", value=TLSH)).form == "raw"
    assert entry(Row(kind="tlsh", value=TLSH, form="normal")).form == "normal"
    assert entry(Row(kind="text", value=PDQ)).form == "normal"
    assert entry(Row(kind="video_md5", value=MD5)).kind == "md5"
    assert {kind: forms[0] for kind, forms in FORMS_OF.items()} == {
        "pdq": "canonical",
        "tlsh": "raw",
        "text": "normal",
        "sha256": "canonical",
        "md5": "canonical",
    }


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row(kind="raw_text", value="hello"), "unknown_kind"),
        (Row(kind="photodna", value="1,2"), "unknown_kind"),
        (Row(kind="pdq", value=PDQ[:-1]), "bad_value"),
        (Row(kind="pdq", value="00" * 32), "bad_value"),
        (Row(kind="pdq", value="ff" * 32), "bad_value"),
        (Row(kind="tlsh", value="TNULL"), "bad_value"),
        (Row(kind="md5", value="d41d8cd98f00b204e9800998ecf8427e"), "bad_value"),
        (Row(kind="sha256", value=hashlib.sha256().hexdigest()), "bad_value"),
        (Row(kind="pdq", value=PDQ, quality=49), "low_quality"),
        (Row(kind="pdq", value=PDQ, quality=101), "bad_field"),
        (Row(kind="md5", value=MD5, quality=90), "bad_field"),
        (Row(kind="tlsh", value=TLSH, length=2**32 - 1), "bad_field"),
        (Row(kind="pdq", value=PDQ, form="normal"), "bad_field"),
        (Row(kind="pdq", value=PDQ, state="gone"), "bad_field"),
        (Row(kind="pdq", value=PDQ, origin="hearsay"), "bad_field"),
        (Row(kind="pdq", value=PDQ, origin="government-referral"), "not_allowed"),
        (Row(kind="pdq", value=PDQ, item="é" * 129), "bad_field"),
        (Row(kind="pdq", value=PDQ, item="a\u202eb"), "bad_field"),
        (Row(kind="pdq", value=PDQ, note="two\nlines"), "bad_field"),
        (Row(kind="pdq", value=PDQ, note="x" * 501), "bad_field"),
        (Row(kind="pdq", value=PDQ, labels=("x" * 65,)), "bad_field"),
        (Row(kind="pdq", value=PDQ, labels=("a|b",)), "bad_field"),
        (Row(kind="pdq", value=PDQ, labels=tuple(map(str, range(33)))), "bad_field"),
    ],
)
def test_refusals(row: Row, why: str) -> None:
    assert reason(row) == why


def test_names_of_many_scripts_and_their_joiners_stay() -> None:
    assert entry(Row(kind="pdq", value=PDQ, item="می\u200cخواهم ویدیو")).item_name == "می\u200cخواهم ویدیو"


def test_a_government_referral_keeps_to_its_own_sets() -> None:
    referred = Set(name="gov", owner="team", origin="government-referral")
    assert reason(Row(kind="pdq", value=PDQ, origin="own-review"), into=referred) == "not_allowed"
    ((change,), _) = judge(Row(kind="pdq", value=PDQ), into=referred)
    assert isinstance(change, Change)
    assert change.batch is not None
    assert change.batch.origin == "government-referral"


def test_a_repeated_hash_names_the_first_line() -> None:
    verdicts, report = judge(Row(kind="pdq", value=PDQ), Row(kind="md5", value=MD5), Row(kind="pdq", value=PDQ.upper()))
    assert verdicts[2] == Rejection(reason="duplicate_row", message="the same hash stands in line 1")
    assert report.rejected == {"duplicate_row": 1}
    assert report.first[0].line == 3


def test_equal_provenance_is_one_batch() -> None:
    def batch_of(**fields: Sequence[str] | str) -> str:
        return entry(Row(kind="pdq", value=PDQ, **fields)).batch  # type: ignore[arg-type]

    assert batch_of() == batch_of(origin="own-review") == batch_of(labels=("",))
    assert len({batch_of(), batch_of(note="n"), batch_of(labels=("a",)), batch_of(labels=("a", "b"))}) == 4
    ((change,), _) = judge(Row(kind="pdq", value=PDQ))
    assert isinstance(change, Change)
    assert change.batch is not None
    assert change.entry.batch == batch_id(change.batch)
    assert len(change.entry.batch) == 16


def test_labels_and_note_for_all_rows() -> None:
    validator = Validator(INTO, principal="tester", now_ms=0, labels=("all",), note="for all")
    rows = [Row(kind="pdq", value=PDQ, labels=("own", "all")), Row(kind="md5", value=MD5, note="mine")]
    batches = [v.batch for _, v in validator.check(enumerate(rows)) if isinstance(v, Change) and v.batch]
    assert [(b.labels, b.note) for b in batches] == [(("all", "own"), "for all"), (("all",), "mine")]
    with pytest.raises(InputError):
        Validator(INTO, principal="tester", now_ms=0, labels=("a|b",))


def test_one_person_does_not_withdraw_in_bulk_by_a_file() -> None:
    values = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(BULK + 5)]
    verdicts, report = judge(*(Row(kind="pdq", value=v, state="retired") for v in values))
    assert [v.verb for v in verdicts if isinstance(v, Change)] == ["withdraw"] * BULK
    assert report.rejected == {"not_allowed": 5}


def test_a_withdrawal_needs_no_quality() -> None:
    assert entry(Row(kind="pdq", value=PDQ, state="retired", quality=1)).state == "retired"


def test_the_report_lists_the_first_and_counts_all() -> None:
    rows = [Row(kind="x", value="")] * 50
    _, report = judge(*rows, Rejection(reason="bad_row", message="a header", lines=7), Row(kind="pdq", value="01" * 32))
    assert len(report.first) == FIRST_REJECTIONS
    assert report.rejected == {"bad_row": 7, "unknown_kind": 50}
    assert (report.rows, report.accepted) == (58, 1)
    assert report.flagged == {"quality_unknown": 1, "unbalanced_pdq": 1}
