"""`hashweir match`: judge files or a hash by the sets in the store, on the same path as Kafka's uploads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from msgspec import Struct

from hashweir.cli import FINDINGS, OK, Json, Shards, Usage, run, settings
from hashweir.cli.hash import Files, read_upload, require_files, shown_time
from hashweir.cli.output import console, say, write_json
from hashweir.errors import REASONS, HashweirError, Refused
from hashweir.model import KINDS, Action, Form, Hit, Kind, Record, Set, Upload, Verdict

if TYPE_CHECKING:
    from hashweir.config import Config
    from hashweir.pipeline.match import Matcher
    from hashweir.ports import Accept, Found, Query, Standing, View
    from hashweir.wiring import Judging

ADVICE: Mapping[Action, str] = {
    "none": "none",
    "log": "log",
    "review": "review (a person decides)",
    "hold": "hold (unpublished until a person decides)",
    "block": "block",
}


SHOWN_TIMES = 5


class FileVerdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `--json` prints, one line per file or hash: a verdict, or the reason why there is none."""

    file: str
    verdict: Verdict | None = None
    reason: str | None = None
    detail: str | None = None


def match(
    files: Files = [],  # noqa: B006 - never changed; cyclopts shows an empty list as "none"
    /,
    *,
    hash: Annotated[  # noqa: A002 - the option's name
        list[str], Parameter(help="a hash to look up, as KIND:VALUE", negative="", consume_multiple=False)
    ] = [],  # noqa: B006
    set: Annotated[  # noqa: A002 - the option's name
        list[str], Parameter(help="judge by this set only", negative="", consume_multiple=False)
    ] = [],  # noqa: B006
    shards: Shards = None,
    json: Json = False,
    exit_code: Annotated[bool, Parameter(negative="", help="exit 3 where anything is not clear")] = False,
) -> int:
    """Judge files (or hashes) by the sets in the store, and explain every hit.

    A file that can't be read is reported and never stops the others; then the exit code is 3.
    """
    require_files(files)
    if not files and not hash:
        raise Usage("name a FILE or give --hash KIND:VALUE")
    hashes = {text: hash_upload(text) for text in hash}
    return run(_match(settings(shards), files, hashes, set, as_json=json, strict=exit_code))


async def _match(
    config: Config,
    files: Sequence[str],
    hashes: Mapping[str, Upload],
    sets: Sequence[str],
    *,
    as_json: bool,
    strict: bool,
) -> int:
    from hashweir import wiring

    worst = OK
    async with wiring.one_shot(config) as judging:
        matcher = _narrowed(judging, sets)
        for name in (*files, *hashes):
            found = await _judge(matcher, name, hashes.get(name), config.limits.file_bytes)
            if as_json:
                write_json(found)
            elif found.verdict is not None:
                console().print("\n".join(explain(name, found.verdict)))
            if found.verdict is None:
                say(f"{name}: {found.detail} [{found.reason}]")
            if found.verdict is None or (strict and found.verdict.outcome != "clear"):
                worst = FINDINGS
    return worst


async def _judge(matcher: Matcher, name: str, upload: Upload | None, most_bytes: int) -> FileVerdict:
    try:
        upload = upload or read_upload(name, most_bytes)
    except HashweirError as error:
        return FileVerdict(file=name, reason=error.reason, detail=str(error))
    return FileVerdict(file=name, verdict=(await matcher.match(upload)).verdict)


def hash_upload(text: str) -> Upload:
    """`KIND:VALUE` as an upload of fingerprints only, read as a record of this kind is. Raises Usage."""
    from hashweir.pipeline.ingest import UPLOAD_JSON, Unreadable, read

    kind, _, value = text.partition(":")
    if kind not in KINDS or not value:
        raise Usage(f"{text!r} is no KIND:VALUE; kinds are {', '.join(KINDS)}", "unknown_kind")
    # Texts are stored under two views, and whoever has a bare value need not know which one it is.
    forms: tuple[Form | None, ...] = ("raw", "normal") if kind == "tlsh" else (None,)
    body = {"fingerprints": [{"kind": kind, "value": value, "form": form} for form in forms]}
    headers = (("content-type", UPLOAD_JSON.encode()), ("ce_id", text[:100].encode()))
    record = Record(
        topic="cli",
        partition=0,
        offset=0,
        timestamp_ms=0,
        value=msgspec.json.encode(body),
        headers=headers,
    )
    try:
        return read(record, "cli", 1 << 20)
    except Unreadable as error:
        raise Usage(error.detail, "bad_value") from None


class _Narrowed:
    """A view of which only some sets are seen."""

    def __init__(self, whole: View, names: frozenset[str]) -> None:
        self._whole = whole
        self.position, self.as_of_ms, self.missing = whole.position, whole.as_of_ms, whole.missing
        self.standing: Standing = whole.standing
        self.sets: Mapping[str, Set] = {name: one for name, one in whole.sets.items() if name in names}
        self.holds, self.batch, self.count_entries = whole.holds, whole.batch, whole.count_entries

    def search(
        self, kind: Kind, form: Form, values: Sequence[bytes], radius: int, accept: Accept | None = None
    ) -> list[Found]:
        return self._whole.search(kind, form, values, radius, accept)

    def search_many(self, kind: Kind, form: Form, queries: Sequence[Query], accept: Accept) -> list[Found]:
        return self._whole.search_many(kind, form, queries, accept)


def _narrowed(judging: Judging, names: Sequence[str]) -> Matcher:
    """The matcher, by these sets only where any are named. Raises Refused(set_not_found)."""
    there = judging.follower.known.view().sets
    for name in names:
        if name not in there:
            listed = ", ".join(sorted(there)) or "there are none"
            raise Refused("set_not_found", f"there is no set {name!r} (sets: {listed})")
    if not names:
        return judging.matcher()
    only = frozenset(names)

    async def usable_view() -> View:
        return _Narrowed(await judging.gate.usable_view(), only)

    return judging.matcher_over(usable_view)


def explain(name: str, verdict: Verdict) -> list[str]:
    """A verdict in lines for people."""
    head = f"{name}: {verdict.outcome}"
    if verdict.outcome == "match":
        head += f", recommended: {ADVICE[verdict.action]}"
    elif verdict.outcome == "unscanned" and verdict.reason is not None:
        head += f", which is not the same as clear: {REASONS[verdict.reason].help} [{verdict.reason}]"
    elif verdict.outcome == "clear":
        head += f" of {', '.join(verdict.sets)}"
        if "exact_only" in verdict.notes:
            head += " (by exact hashes only: these sets hold no perceptual ones for it)"
    if verdict.footage is not None and verdict.footage.share_checked < 1:
        head += f" ({verdict.footage.share_checked:.0%} of it was looked at)"
    for note in verdict.notes:
        if note.startswith("shards_missing:"):
            head += f" (not looked up in shards {note.partition(':')[2]})"
    lines = [head, *(f"  {explain_hit(hit)}" for hit in verdict.hits)]
    if verdict.hits_total > len(verdict.hits):
        lines.append(f"  ... and {verdict.hits_total - len(verdict.hits)} more hits")
    return lines


def explain_hit(hit: Hit) -> str:
    """One hit as a sentence: set, entry, distance of radius, band, and what is recommended because of it."""
    near = "identical bytes" if hit.band == "exact" else f"{hit.kind} distance {hit.distance} of {hit.radius}"
    words = [
        f"set {hit.set} ({hit.origin})",
        f"entry {hit.entry[:12]}",
        f"{near} (band {hit.band})" if hit.band != "exact" else f"{near} ({hit.kind})",
    ]
    if hit.quality is not None and hit.entry_quality is not None:
        words.append(f"quality {hit.quality} and {hit.entry_quality}")
    if hit.page is not None:
        words.append(f"page {hit.page}")
    if hit.labels:
        words.append(f"labels {', '.join(hit.labels)}")
    if hit.length_unknown:
        words.append("length unknown")
    if hit.share_upload is not None and hit.share_known is not None:
        shown = [shown_time(start, until) or "" for start, until in hit.times[:SHOWN_TIMES]]
        more = ", ..." if len(hit.times) > SHOWN_TIMES else ""
        words.append(f"at {', '.join(shown)}{more}")
        words.append(f"{hit.share_upload:.0%} of the upload and {hit.share_known:.0%} of the known video")
    if hit.state == "below_share":
        words.append("less than the set asks for: counted, recommends nothing")
    elif hit.state != "active":
        words.append(f"in {hit.state}: counted, recommends nothing")
    else:
        words.append(f"recommends {hit.action} (ceiling {hit.ceiling})")
    return ", ".join(words)
