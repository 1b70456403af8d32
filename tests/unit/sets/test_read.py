"""Reading never raises, and each line of whatever file is counted once."""

from __future__ import annotations

import io
import json

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from hashweir.model import ENTRY_STATES
from hashweir.sets.read import (
    COLUMNS,
    FILE_FORMS,
    LABEL_SEPARATOR,
    MAX_LINE_BYTES,
    FileForm,
    Line,
    Reader,
    Rejection,
    Row,
    detect,
    schema,
    show_line,
)

PDQ = "0f" * 32
MD5 = "0123456789abcdef" * 2
TLSH = "T1" + "5A" * 35


def read(data: bytes, form: FileForm | None = None) -> tuple[Reader, list[tuple[int, Row | Rejection]]]:
    reader = Reader(io.BytesIO(data), form)
    return reader, list(reader)


def rows(data: bytes, form: FileForm | None = None) -> list[Row | Rejection]:
    return [row for _, row in read(data, form)[1]]


def row(data: bytes, form: FileForm | None = None) -> Row:
    (found,) = rows(data, form)
    assert isinstance(found, Row)
    return found


def refusal(data: bytes, form: FileForm | None = None) -> Rejection:
    (found,) = rows(data, form)
    assert isinstance(found, Rejection)
    return found


pieces = st.sampled_from(
    [b"pdq ", b"kind,value,labels\n", b"{", b'{"kind":"pdq","value":"ff"}', b"\n", b"\r\n", b'"', b",", b"\0", b"\r"]
)
files = st.one_of(st.binary(max_size=300), st.lists(st.one_of(pieces, st.binary(max_size=8))).map(b"".join))


@given(data=files, form=st.sampled_from([None, *FILE_FORMS]))
@example(data=b"\xff\xfek\0i\0n\0d\0", form=None)
@example(data=b"\n\nkind\n", form=None)
@example(data=b"kind,value\n" + b"[" * 5000, form=None)
@example(data=b'{"a":' * 2000, form=None)
def test_any_bytes_never_raise_and_every_line_counts_once(data: bytes, form: FileForm | None) -> None:
    reader, found = read(data, form)
    told = sum(r.lines if isinstance(r, Rejection) else 1 for _, r in found)
    expected = data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)
    assert reader.lines == expected
    assert told + reader.blank + reader.header == expected
    assert reader.bytes == len(data)
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))


labels = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20).map(str.strip).filter(bool)
texts = st.text(max_size=60)
lines = st.builds(
    Line,
    kind=st.just("pdq"),
    value=st.just(PDQ),
    form=st.sampled_from([UNSET, "canonical"]),
    item=st.text(max_size=60),
    labels=st.lists(labels, max_size=4, unique=True).map(tuple),
    note=texts,
    state=st.sampled_from(ENTRY_STATES),
    quality=st.none() | st.integers(0, 100),
    length=st.none() | st.integers(0, 2**32 - 2),
    added_ms=st.none() | st.integers(0, 2**45),
)


@given(st.lists(lines, min_size=1, max_size=4))
def test_what_is_written_as_a_line_is_read_back(written: list[Line]) -> None:
    found = rows(b"".join(map(show_line, written)))
    assert len(found) == len(written)
    for one, back in zip(written, found, strict=True):
        assert isinstance(back, Row)
        for name in COLUMNS:
            told = getattr(one, name)
            assert (
                getattr(back, name) == told
                or (name == "state" and told == "active" and not back.state)
                or (told in (None, UNSET) and not getattr(back, name))
            )


@pytest.mark.slow
@given(lines)
def test_every_line_fits_the_schema(line: Line) -> None:
    jsonschema.validate(json.loads(show_line(line)), schema())


def test_the_schema_knows_the_columns_and_nothing_else() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert tuple(schema()["properties"]) == COLUMNS == Line.__struct_fields__
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"kind": "pdq", "value": PDQ, "colour": "red"}, schema())


def test_csv() -> None:
    data = b'\xef\xbb\xbfKind,value,labels,item,quality\r\npdq,%s, a:b |c| ,"x, ""y""",87\r\n' % PDQ.encode()
    reader, found = read(data)
    assert reader.form == "csv"
    assert found == [(2, Row(kind="pdq", value=PDQ, labels=("a:b", "c"), item='x, "y"', quality=87))]
    assert LABEL_SEPARATOR == "|"


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
@pytest.mark.parametrize("bom", ["", "\N{ZERO WIDTH NO-BREAK SPACE}"])
def test_lines_of_threatexchange(ending: str, bom: str) -> None:
    assert row(f"{bom}video_md5 {MD5}{ending}".encode()) == Row(kind="video_md5", value=MD5)
    assert row(f"{bom}tlsh   {TLSH}{ending}".encode()) == Row(kind="tlsh", value=TLSH)


@pytest.mark.parametrize(
    ("first", "form"),
    [
        ('{"kind":"pdq"}', "json"),
        (" {", "json"),
        ("kind,value", "csv"),
        ('"kind","value"', "csv"),
        ("value;kind", "csv"),
        ("nonsense,more", "csv"),
        (f"pdq {PDQ}", "lines"),
        ("raw_text hello, world", "lines"),
        (PDQ, "lines"),
    ],
)
def test_the_first_line_tells_the_form(first: str, form: str) -> None:
    assert detect(first) == form


def test_an_unusable_header_is_named_once_and_speaks_for_all_lines() -> None:
    reader, found = read(b"kind,value,colour,smell\n" + b"pdq,ff\n" * 10)
    ((number, refused),) = found
    assert isinstance(refused, Rejection)
    assert (number, refused.lines, reader.lines) == (1, 11, 11)
    assert "'colour', 'smell'" in refused.message
    assert "labels" in refused.message
    assert "commas" in refusal(b"kind;value\npdq;ff\n").message
    assert "lacks kind" in refusal(b"value,note\n").message
    assert "twice" in refusal(b"kind,value,value\n").message


def test_a_bad_row_stops_nothing() -> None:
    data = b'kind,value,quality\npdq,aa\npdq,bb,90,9\npdq,\xff,1\npdq,cc,many\npdq,dd,1\x00\n\npdq,"ee,1\npdq,ff,7\n'
    reader, found = read(data)
    assert [n for n, _ in found] == [2, 3, 4, 5, 6, 8, 9]
    assert [r.reason for _, r in found if isinstance(r, Rejection)] == ["bad_row"] * 3 + ["bad_field"] + ["bad_row"] * 2
    assert found[-1][1] == Row(kind="pdq", value="ff", quality=7)
    assert reader.blank == 1


def test_long_lines_are_refused_without_being_held() -> None:
    fits = b"pdq " + b"f" * (MAX_LINE_BYTES - 4)
    data = fits + b"\r\n" + fits + b"f\n" + b"x" * (5 * MAX_LINE_BYTES) + b"\npdq aa"
    found = read(data)[1]
    assert [type(r) for _, r in found] == [Row, Rejection, Rejection, Row]
    assert found[-1] == (4, Row(kind="pdq", value="aa"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"kind":"pdq"}', "value"),
        (b'{"kind":"pdq","value":"ff","colour":1}', "colour"),
        (b'{"kind":"pdq","value":"ff","quality":"good"}', "quality"),
        (b'{"kind":"pdq","value":"ff"', "truncated"),
        (b'{"kind":"pdq","value":"\\ud800"}', "JSON"),
    ],
)
def test_bad_json_lines_say_what_is_wrong(line: bytes, words: str) -> None:
    refused = refusal(line)
    assert refused.reason == "bad_row"
    assert words in refused.message


def test_line_defaults_are_left_out() -> None:
    assert msgspec.json.decode(show_line(Line(kind="md5", value=MD5))) == {"kind": "md5", "value": MD5}
