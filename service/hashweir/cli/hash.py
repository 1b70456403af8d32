"""`hashweir hash`: the fingerprints of files, computed in scan processes as for every upload."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

from cyclopts import Parameter
from msgspec import Struct

from hashweir.cli import FINDINGS, OK, Json, Usage, run, settings
from hashweir.cli.output import console, say, table, write_json
from hashweir.errors import REASONS, HashweirError, InputError
from hashweir.model import Fingerprint, Footage, FormGroup, Kind, Scan, Upload

if TYPE_CHECKING:
    from hashweir.config import Config
    from hashweir.ports import Sandbox

STDIN = "-"
FORMS_HELP = "other views of pictures: turns, threatexchange, nearest-512, fast; with commas between them"
ALL_FORMS_HELP = f"{FORMS_HELP}; or dihedral: turns as pdqhash.compute_dihedral gives them, never looked up"
_Group = TypeVar("_Group", bound=str)
Files = Annotated[list[str], Parameter(allow_leading_hyphen=True, help="files, or - for standard input")]


class FileScan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `--json` prints, one line per file. Times are seconds."""

    file: str
    media_type: str | None = None
    media_class: str | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    checked: dict[Kind, str] = {}
    notes: tuple[str, ...] = ()
    reason: str | None = None
    detail: str | None = None
    footage: Footage | None = None
    timings: dict[str, float] = {}


def read_forms(text: str, groups: tuple[_Group, ...]) -> tuple[_Group, ...]:
    """Those of `groups` whose names are in the text, with commas between them. Raises Usage."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in groups:
            raise Usage(f"there is no form {name!r} to ask for; there are {', '.join(groups)}")
    return tuple(group for group in groups if group in names)


def hash_files(
    files: Files, /, *, forms: Annotated[str, Parameter(help=ALL_FORMS_HELP)] = "", json: Json = False
) -> int:
    """Print every fingerprint of each file: kind, form, recipe, value, quality, length and time.

    A file that can't be hashed is reported with its reason and never stops the others; then the exit code is 3.
    """
    require_files(files)
    return run(_hash(files, read_forms(forms, get_args(FormGroup)), as_json=json))


async def _hash(files: Sequence[str], forms: tuple[FormGroup, ...], *, as_json: bool) -> int:
    from hashweir import wiring

    config = settings()
    code = OK
    async with running(wiring.sandbox(config)) as sandbox:
        for name in files:
            found = await scan_file(sandbox, name, config, forms)
            if as_json:
                write_json(found)
            elif found.fingerprints:
                _show(found)
            if found.reason is not None:
                say(f"{name}: {found.detail or REASONS[found.reason].help} [{found.reason}]")
                code = FINDINGS
    return code


@asynccontextmanager
async def running(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """Scan processes that are ended whatever happens."""
    try:
        await sandbox.start()
        yield sandbox
    finally:
        await sandbox.stop()


async def scan_file(sandbox: Sandbox, name: str, config: Config, forms: tuple[FormGroup, ...] = ()) -> FileScan:
    """Read and scan one file. Never raises for a file: its reason is in the answer."""
    try:
        upload = read_upload(name, config.limits.file_bytes)
    except HashweirError as error:
        return FileScan(file=name, reason=error.reason, detail=str(error))
    return _answer(name, await sandbox.scan(upload, forms))


def read_upload(name: str, most_bytes: int) -> Upload:
    """A file (or standard input, `-`) as an upload. Raises InputError(unreadable | too_large | empty_value)."""
    from hashweir.pipeline.sniff import sniff

    try:
        if name == STDIN:
            content = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError("unreadable", f"can't be read: {error.strerror}") from None
    if len(content) > most_bytes:
        raise InputError("too_large", f"over limits.file_bytes = {most_bytes}")
    if not content:
        raise InputError("empty_value", "is empty")
    media_type = mimetypes.guess_type(name)[0]
    if media_type is None and sniff(content) is None:
        media_type = "text/plain"
    return Upload(source="cli", id=name, media_type=media_type, content=content)


def require_files(files: Sequence[str]) -> None:
    """Raises Usage for what was meant as an option, and where standard input is named twice."""
    for name in files:
        if name.startswith("-") and name != STDIN:
            raise Usage(f"there is no option {name} (a file of this name is ./{name})")
    if files.count(STDIN) > 1:
        raise Usage("standard input (-) can be read only once")


def _answer(name: str, scan: Scan) -> FileScan:
    reason = scan.reason or next((one for one in scan.checked.values() if one != "ok"), None)
    return FileScan(
        file=name,
        media_type=scan.media_type,
        media_class=scan.media_class,
        fingerprints=scan.fingerprints,
        checked=scan.checked,
        notes=scan.notes,
        reason=reason,
        footage=scan.footage,
        timings={stage: round(seconds, 6) for stage, seconds in scan.timings.items()},
    )


def _show(found: FileScan) -> None:
    out = console()
    spent = ", ".join(f"{stage} {seconds * 1000:.1f} ms" for stage, seconds in found.timings.items())
    notes = f" ({', '.join(found.notes)})" if found.notes else ""
    out.print(f"{found.file}  {found.media_type}  {spent}{notes}")
    rows = [
        (f"{one.kind}/{one.form}", one.recipe, one.quality, one.length, shown_time(one.time_s, one.until_s), one.value)
        for one in found.fingerprints
    ]
    table(out, ("fingerprint", "recipe", "quality", "length", "time", "value"), rows)


def shown_time(start_s: float | None, until_s: float | None) -> str | None:
    """A stretch of a video for people: `1:02.5` or `1:02.5-1:09.5`, in minutes and seconds."""
    if start_s is None:
        return None
    shown = [
        f"{int(tenths // 600)}:{tenths % 600 / 10:04.1f}"
        for tenths in (round(start_s * 10), round((until_s or start_s) * 10))
    ]
    return shown[0] if shown[0] == shown[1] else "-".join(shown)
