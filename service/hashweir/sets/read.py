"""Files of hashes to rows, as a stream: CSV with a header, `kind value` lines, or our own JSON lines.

Nothing here judges a row; `sets.validate` does. Whatever the bytes are, reading never raises, and each line is
counted once: as the header, as blank, as a row, or in a rejection. `hashsets/FORMAT.md` is the page for people.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, BinaryIO, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hashweir.model import KINDS, EntryState, Form, HashText, HexId, Kind, Label, Origin, Value

FileForm = Literal["csv", "lines", "json"]
FILE_FORMS: Final[tuple[FileForm, ...]] = get_args(FileForm)
LABEL_SEPARATOR = "|"
"""Between labels in one CSV cell. Not `;`, at which spreadsheets of many countries split columns."""
MAX_LINE_BYTES = 65_536
MAX_LABELS = 32
MAX_ITEM_BYTES = 256
MAX_NOTE = 500
MAX_LENGTH = 2**32 - 2
"""The largest known length; the number above it means "unknown" in a side record."""

_BOM = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")

KIND_NAMES: Final[Mapping[str, Kind]] = {
    **{kind: kind for kind in KINDS},
    "video_md5": "md5",
    "photo_md5": "md5",
    "video_sha256": "sha256",
    "text_tlsh": "tlsh",
}
"""Our kinds, and the names that python-threatexchange gives to the same hashes."""
FOREIGN_KINDS: Final[Mapping[str, str]] = {
    "raw_text": "it is the text itself; hash it first with `hashweir hash`",
    "trend_query": "it is a search expression, not a hash",
    "url": "links are not matched",
    "url_md5": "links are not matched",
    "pdq_ocr": "it mixes a hash with text read from the picture; give its pdq part",
    "vpdq": "it is a list of frames; import it by itself with --form vpdq --item NAME",
    "clip": "hashweir has no such hash",
    "photodna": "hashweir has no such hash",
    "pdna": "hashweir has no such hash",
    "tmk": "hashweir has no such hash",
    "sha1": "hashweir has no such hash; give sha256",
}
"""Kinds of other tools that are known here but not taken, and why."""


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One row as it was written, before anybody judged it. Empty text and None mean "not given".

    `entry` and `added_ms` are told by an export and not taken by an import: the one follows from the rest, the
    other would let a file choose its own date.
    """

    kind: str
    value: str
    form: str = ""
    item: str = ""
    labels: tuple[str, ...] = ()
    note: str = ""
    origin: str = ""
    state: str = ""
    quality: int | None = None
    length: int | None = None
    entry: str = ""
    added_ms: int | None = None


class Line(Value, frozen=True, omit_defaults=True):
    """One line of our own JSON form: one entry. This is what `sets export` writes and `sets import` reads back."""

    kind: Annotated[Kind, Meta(description="kind of hash")]
    value: Annotated[HashText, Meta(description="pdq, sha256, text: 64 hex; md5: 32 hex; tlsh: T1 and 70 hex")]
    form: Annotated[Form, Meta(description="which view of the content was hashed")] | UnsetType = UNSET
    item: Annotated[str, Meta(max_length=MAX_ITEM_BYTES, description="name of the known media")] = ""
    labels: Annotated[tuple[Label, ...], Meta(max_length=MAX_LABELS)] = ()
    note: Annotated[str, Meta(max_length=MAX_NOTE)] = ""
    origin: Annotated[Origin, Meta(description="default: the set's")] | UnsetType = UNSET
    state: Annotated[EntryState, Meta(description="retired: withdraw it")] = "active"
    quality: Annotated[int, Meta(ge=0, le=100, description="pdq only")] | None = None
    length: Annotated[int, Meta(ge=0, le=MAX_LENGTH, description="of the hashed form")] | None = None
    entry: Annotated[HexId, Meta(description="entry id; told by an export, not taken by an import")] | UnsetType = UNSET
    added_ms: Annotated[int, Meta(ge=0, description="as entry; milliseconds since 1970")] | None = None


class Rejection(Struct, frozen=True, kw_only=True):
    """Why a line gave no row. `lines` counts the lines it speaks for: above 1 only where a header is unusable."""

    reason: str
    message: str
    lines: int = 1


COLUMNS: Final[tuple[str, ...]] = Row.__struct_fields__
_NUMBERS: Final = frozenset({"quality", "length", "added_ms"})
_decode = msgspec.json.Decoder(Row).decode
_encode = msgspec.json.Encoder().encode


def show_line(line: Line) -> bytes:
    """One line of our JSON form, with its newline."""
    return _encode(line) + b"\n"


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of one line of our JSON form."""
    made = msgspec.json.schema(Line)
    line = made["$defs"].pop("Line")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hashweir entry",
        **{key: value for key, value in line.items() if key != "title"},
        **({"$defs": made["$defs"]} if made["$defs"] else {}),
    }


class Reader:
    """Iterate over (line number, Row | Rejection) of a binary file; counts grow as it is read.

    `form` is what was given or, from the first line that is not blank on, detected. `lines`, `blank`, `header`
    (lines) and `bytes` tell how far it is. Reads at most one line ahead; a line over `MAX_LINE_BYTES` is rejected
    without being held.
    """

    def __init__(self, file: BinaryIO, form: FileForm | None = None) -> None:
        """`file` needs `readline` alone, so a pipe does."""
        self._file = file
        self._columns: list[str] = []
        self.form = form
        self.lines = self.blank = self.header = self.bytes = 0

    def __iter__(self) -> Iterator[tuple[int, Row | Rejection]]:
        for number, raw in self._raw_lines():
            if self.form == "json" and raw is not None:
                # What most lines are. Whatever is wrong with another one is found out below.
                try:
                    yield number, _decode(raw)
                except (msgspec.MsgspecError, UnicodeError, RecursionError):
                    pass
                else:
                    continue
            text = _text(raw)
            if isinstance(text, str) and not text.strip():
                self.blank += 1
                continue
            if isinstance(text, Rejection):
                yield number, text
                continue
            if self.form is None:
                self.form = detect(text)
            if self.form == "csv" and not self._columns:
                refused = self._read_header(text)
                if refused is None:
                    self.header = 1
                    continue
                rest = sum(1 for _ in self._raw_lines())
                yield number, Rejection(reason="bad_row", message=refused, lines=1 + rest)
                return
            yield number, self._row(text)

    def _raw_lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Numbered lines without their ending; None for one that is too long."""
        while raw := self._file.readline(MAX_LINE_BYTES + 2):
            self.lines += 1
            self.bytes += len(raw)
            if raw[-1] == _NEWLINE and len(raw) <= MAX_LINE_BYTES and self.lines > 1:
                yield self.lines, raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
                continue
            too_long = len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES
            while not raw.endswith(b"\n") and (more := self._file.readline(MAX_LINE_BYTES)):
                too_long, raw = True, more
                self.bytes += len(more)
            if self.lines == 1:
                raw = raw.removeprefix(_BOM)
            yield self.lines, None if too_long else raw.removesuffix(b"\n").removesuffix(b"\r")

    def _read_header(self, text: str) -> str | None:
        cells = [cell.strip().lower() for cell in _cells(text) or ()]
        if unknown := [cell for cell in cells if cell not in COLUMNS]:
            message = f"unknown columns {', '.join(map(excerpt, unknown[:8]))}; known: {', '.join(COLUMNS)}"
            if len(cells) == 1 and re.search(r"[;\t]", text):
                message = "columns are separated by commas, not by semicolons or tabs: save the file that way"
            return message
        if missing := {"kind", "value"} - set(cells):
            return f"the header lacks {' and '.join(sorted(missing))}: CSV begins with kind,value,..."
        if len(set(cells)) != len(cells):
            return "the header names a column twice"
        self._columns = cells
        return None

    def _row(self, text: str) -> Row | Rejection:
        if self.form == "json":
            return _from_json(text)
        if self.form == "csv":
            return _from_cells(self._columns, text)
        kind, _, value = text.strip().partition(" ")
        if not value:
            return _bad(f"a line is a kind, a space and a value, got {excerpt(text)}")
        return Row(kind=kind, value=value.strip())


def detect(first: str) -> FileForm:
    """The form of a file by its first line that is not blank."""
    if first.lstrip().startswith("{"):
        return "json"
    word, _, rest = first.strip().partition(" ")
    if rest and word.lower() in KIND_NAMES.keys() | FOREIGN_KINDS.keys():
        return "lines"
    return "csv" if re.search(r"[,;\t]", first) else "lines"


def excerpt(text: str) -> str:
    """A short, quoted, printable piece of what a stranger wrote, for messages."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def _bad(message: str, reason: str = "bad_row") -> Rejection:
    return Rejection(reason=reason, message=message)


def _text(raw: bytes | None) -> str | Rejection:
    if raw is None:
        return _bad(f"the line is longer than {MAX_LINE_BYTES} bytes")
    if b"\0" in raw:
        return _bad("the line holds a NUL byte; a file in UTF-16 must be saved as UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return _bad(f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8")


def _cells(text: str) -> list[str] | None:
    """The cells of one line; None where a quote is left open or misplaced. A row never spans lines."""
    try:
        return next(csv.reader((text,), strict=True), None)
    except csv.Error:
        return None


def _from_cells(columns: list[str], text: str) -> Row | Rejection:
    cells = _cells(text)
    if cells is None:
        return _bad("a quote is open or misplaced; a row is one line")
    if len(cells) != len(columns):
        return _bad(f"{len(cells)} cells, but the header has {len(columns)} columns")
    given: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        cell = cell.strip()
        if column == "labels":
            given[column] = tuple(part.strip() for part in cell.split(LABEL_SEPARATOR) if part.strip())
        elif column not in _NUMBERS:
            given[column] = cell
        elif cell:
            if not (cell.isascii() and cell.isdigit() and len(cell) <= 15):
                return _bad(f"{column} is a whole number, got {excerpt(cell)}", "bad_field")
            given[column] = int(cell)
    return Row(**given)


def _from_json(text: str) -> Row | Rejection:
    try:
        return _decode(text)
    except RecursionError:
        return _bad("the JSON is nested too deeply")
    except msgspec.ValidationError as error:
        return _bad(f"the JSON does not fit an entry: {excerpt_of(error)}")
    except (msgspec.DecodeError, UnicodeError) as error:
        return _bad(f"not JSON: {excerpt_of(error)}")


def excerpt_of(error: Exception) -> str:
    """What a library says of a bad line, cut and printable: it may repeat names from the line."""
    return str(error)[:120].encode("ascii", "backslashreplace").decode()
