"""`hashweir sets import` and `hashweir sets export`: whole files, in and out."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, BinaryIO, Literal

import msgspec
from cyclopts import Parameter

from hashweir.cli import OK, Json, Usage
from hashweir.cli.output import console, emit, say
from hashweir.cli.sets import Name, Operation, log, on_store, report
from hashweir.sets.read import FileForm, Line, Reader, Rejection, Row, show_line
from hashweir.sets.vpdq import MIN_QUALITY, VpdqReader, show_vpdq

if TYPE_CHECKING:
    from rich.console import Console

    from hashweir.ports import Store
    from hashweir.sets.write import Written

LARGE_BYTES = 1_000_000
"""A file of which it is said before how to go on with it, for nothing can be said after a SIGKILL."""
LINES_PER_WORD = 100_000
"""Where stderr is no terminal, one line of progress for so many lines of the file."""


def import_file(
    name: Name,
    file: Annotated[Path, Parameter(allow_leading_hyphen=True, help="file of hashes; - is stdin")],
    /,
    *,
    form: Annotated[
        FileForm | Literal["vpdq"] | None, Parameter(help="form of the file (default: told by its first line)")
    ] = None,
    item: Annotated[str, Parameter(help="name of the known video, with --form vpdq")] = "",
    label: Annotated[tuple[str, ...], Parameter(negative="", help="tag for every entry; repeatable")] = (),
    note: Annotated[str, Parameter(help="note for entries that have none of their own")] = "",
    dry_run: Annotated[bool, Parameter(negative="", help="check every line, write nothing")] = False,
    rejects: Annotated[Path | None, Parameter(help="write every refused line here, as JSON lines")] = None,
    operation: Operation = None,
    json: Json = False,
) -> int:
    """Import a file: CSV with a header, `kind value` lines, or JSON lines (see hashsets/FORMAT.md).

    `--form vpdq --item NAME` takes one known video's frames, in vPDQ's JSON or text form, as entries of one item.
    A bad line is reported and stops nothing; then the exit code is 3. Repeating an import is harmless: one that was
    cut short is completed, and under the same --operation it also answers for what was done before.
    """
    from hashweir.sets import commands
    from hashweir.sets.write import new_operation

    if (form == "vpdq") != bool(item):
        raise Usage("--form vpdq needs --item NAME, and no other form takes it: its rows name their items")
    operation = operation or new_operation()
    with ExitStack() as stack:
        source = stack.enter_context(_source(file))
        refused = stack.enter_context(_private(rejects)) if rejects else None

        def rejected(line: int, why: Rejection) -> None:
            if refused:
                refused.write(msgspec.json.encode({"line": line, "reason": why.reason, "message": why.message}))
                refused.write(b"\n")

        reader = VpdqReader(source, item) if form == "vpdq" else Reader(source, form)

        async def work(store: Store) -> Written:
            size = _size(source)
            if not dry_run and (size is None or size > LARGE_BYTES):
                say(f"operation {operation}: if this is cut short, repeat the command with --operation {operation}")
            # Closed before an error is told, so that the bar does not draw over it.
            with closing(watched(reader, size)) as rows:
                return await commands.import_rows(
                    store,
                    commands.LOCAL,
                    name,
                    rows,
                    labels=label,
                    note=note,
                    dry_run=dry_run,
                    operation=operation,
                    rejected=rejected,
                    log=log(),
                )

        done = on_store(work)
    if not reader.lines:
        say(f"{file} is empty")
    if isinstance(reader, VpdqReader) and reader.left_out:
        say(f"{reader.left_out} frames left out: repeats, or of a quality under {MIN_QUALITY}, as vPDQ does")
    return report(done, json)


def export(
    name: Name,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="write to this file (mode 0600) instead of stdout")] = None,
    active: Annotated[bool, Parameter(negative="", help="only active entries, no tombstones")] = False,
    form: Annotated[Literal["json", "vpdq"], Parameter(help="vpdq: one known video's frames, with --item")] = "json",
    item: Annotated[str, Parameter(help="only entries of the known media of this name")] = "",
    json: Json = False,
) -> int:
    """Export a set as JSON lines, which `sets import` reads back. Hashes can be inverted: keep the file safe.

    With --json and --out, a summary goes to stdout; without --out the lines themselves do.
    """
    from hashweir.sets import commands

    if form == "vpdq" and not item:
        raise Usage("--form vpdq needs --item NAME: it holds one known video")

    async def work(store: Store) -> int:
        count = 0
        video: list[Line] = []
        # Looked up before a file is touched: a mistyped name must not empty one.
        await commands.find_set(store, name)
        with _private(out) if out else _stdout() as file:
            async for run in commands.export(store, commands.LOCAL, name, only_active=active, log=log()):
                chosen = [line for line in run if not item or line.item == item]
                if form == "vpdq":
                    video += (line for line in chosen if line.kind == "pdq" and line.state == "active")
                else:
                    file.write(b"".join(map(show_line, chosen)))
                    count += len(chosen)
            if form == "vpdq":
                file.write(show_vpdq(video))
                count = len(video)
        return count

    count = on_store(work)
    if out is None:
        say(f"{count} entries")
        return OK

    def human(console: Console) -> None:
        console.print(f"{count} entries of {name} written to {out}")

    emit({"set": name, "entries": count, "file": str(out)}, as_json=json, human=human)
    return OK


def watched(reader: Reader | VpdqReader, size: int | None) -> Generator[tuple[int, Row | Rejection], None, None]:
    """The reader's rows, with a progress bar over its bytes on a terminal, and a line now and then elsewhere."""
    if not sys.stderr.isatty():
        for number, row in reader:
            yield number, row
            if number % LINES_PER_WORD == 0:
                say(f"{number} lines read")
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[lines]} lines"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("import", total=size, lines=0)
        for number, row in reader:
            yield number, row
            if number % 256 == 0:
                progress.update(task, completed=reader.bytes, lines=reader.lines)


@contextmanager
def _source(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise Usage(f"can't read {file}: {error.strerror}") from None
    with opened:
        if stat.S_ISDIR(os.fstat(opened.fileno()).st_mode):
            raise Usage(f"{file} is a folder")
        yield opened


def _size(source: BinaryIO) -> int | None:
    """Bytes of a regular file; None for a pipe."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    """A new file that only its owner reads, under its name only when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Usage(f"can't write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
