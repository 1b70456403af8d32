"""`hashweir sets`: the analyst's door. It works on the store itself, as `local`: one person, who approves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

from cyclopts import App, Parameter

from hashweir import logs
from hashweir.cli import FAILED, FINDINGS, OK, Json, Usage, run, settings
from hashweir.cli.hash import FORMS_HELP, read_forms
from hashweir.cli.output import emit, say, table
from hashweir.model import Action, Kind, Origin, SetForm, Surface

if TYPE_CHECKING:
    from rich.console import Console

    from hashweir.logs import Logger
    from hashweir.model import Set
    from hashweir.ports import Store
    from hashweir.sets.commands import SetChanged
    from hashweir.sets.read import Row
    from hashweir.sets.write import Written

T = TypeVar("T")
app = App(name="sets", help="Hash sets: list, create, fill, activate, withdraw, repair.")
for _name, _path, _help in (
    ("import", "sets_files:import_file", "Import a file of hashes."),
    ("export", "sets_files:export", "Export a set as JSON lines. Hashes can be inverted: keep the file safe."),
    ("repair", "sets_mend:repair", "Find chunks that were damaged in the store and mend them."),
    ("reconcile", "sets_mend:reconcile", "Rule on a store that lost changes (alarm `store_rewound`)."),
):
    app.command(f"hashweir.cli.{_path}", name=_name, help=_help)

Name = Annotated[str, Parameter(help="name of the set")]
Operation = Annotated[
    str | None, Parameter(name="--operation", help="repeat an earlier operation under its id, to complete it")
]


@asynccontextmanager
async def opened() -> AsyncIterator[Store]:
    """The configured store. Raises ConfigError, Unreachable, Refused(store_not_created)."""
    from hashweir import wiring

    store = wiring.store(settings())
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def on_store(work: Callable[[Store], Awaitable[T]]) -> T:
    """Run one piece of work on the configured store."""

    async def whole() -> T:
        async with opened() as store:
            return await work(store)

    return run(whole())


@app.command(name="list")
def list_sets(*, json: Json = False) -> int:
    """All sets and their policies."""

    async def work(store: Store) -> Sequence[Set]:
        return (await store.read_sets()).sets

    sets = sorted(on_store(work), key=lambda one: one.name)
    columns = ("set", "state", "ceiling", "origin", "owner", "surfaces", "version")

    def human(out: Console) -> None:
        table(out, columns, [_summary(one) for one in sets])

    emit(sets, as_json=json, human=human)
    if not sets:
        say("no sets yet: create one with `hashweir sets create NAME --owner ... --origin ...`")
    return OK


@app.command
def show(name: Name, /, *, json: Json = False) -> int:
    """One set: its policy, and how many entries it holds. Reads the whole store."""
    from msgspec import to_builtins

    from hashweir.sets import commands, held

    async def work(store: Store) -> dict[str, object]:
        one = await commands.find_set(store, name)
        return {**to_builtins(one), "entries": await held.tally(store, one)}

    found = on_store(work)

    def human(out: Console) -> None:
        table(out, ("field", "value"), [(key, _plain(value)) for key, value in found.items()])

    emit(found, as_json=json, human=human)
    return OK


@app.command
def create(
    name: Name,
    /,
    *,
    owner: Annotated[str, Parameter(help="who answers for it")],
    origin: Annotated[Origin, Parameter(help="where its hashes come from")],
    ceiling: Annotated[Action, Parameter(help="the strongest action it may recommend")] = "review",
    surface: Annotated[tuple[Surface, ...], Parameter(negative="", help="only these surfaces; repeatable")] = (),
    pdq_radius: Annotated[int | None, Parameter(help="PDQ distance that is still a hit")] = None,
    tlsh_radius: Annotated[int | None, Parameter(help="TLSH distance that is still a hit")] = None,
    min_quality: Annotated[int, Parameter(help="PDQ quality under which nothing is taken or looked up")] = 50,
    forms: Annotated[str, Parameter(help=FORMS_HELP)] = "",
    video_share_upload: Annotated[float, Parameter(help="share of a video's frames that must hit")] = 0.8,
    video_share_known: Annotated[float, Parameter(help="share of the known video's frames that must be hit")] = 0.0,
    operation: Operation = None,
    json: Json = False,
) -> int:
    """Create a set. It starts in shadow: hits are counted and change no action."""
    from hashweir.sets import commands

    groups = read_forms(forms, get_args(SetForm))
    radii: tuple[tuple[Kind, int | None], ...] = (("pdq", pdq_radius), ("tlsh", tlsh_radius))
    return _set_changed(
        lambda store: commands.create(
            store,
            commands.LOCAL,
            name=name,
            owner=owner,
            origin=origin,
            ceiling=ceiling,
            surfaces=surface,
            radius={kind: value for kind, value in radii if value is not None},
            min_quality=min_quality,
            forms=groups,
            video_shares=(video_share_upload, video_share_known),
            operation=operation,
            log=log(),
        ),
        f"set {name} created, in shadow; fill it with `hashweir sets import {name} FILE`",
        json,
    )


@app.command
def activate(name: Name, /, *, operation: Operation = None, json: Json = False) -> int:
    """Let a set's hits count. Above ceiling `review` this takes a second person."""
    from hashweir.sets import commands

    permitted = settings().sets.allow_local_activation
    return _set_changed(
        lambda store: commands.activate(
            store, commands.LOCAL, name, allow_local_activation=permitted, operation=operation, log=log()
        ),
        f"set {name} is active (one person did this: logged as unapproved)",
        json,
    )


@app.command
def off(name: Name, /, *, operation: Operation = None, json: Json = False) -> int:
    """Switch a set off everywhere, at once. One person suffices."""
    from hashweir.sets import commands

    return _set_changed(
        lambda store: commands.off(store, commands.LOCAL, name, operation=operation, log=log()),
        f"set {name} is off",
        json,
    )


@app.command
def add(
    name: Name,
    /,
    *hashes: Annotated[str, Parameter(help="hashes as KIND:VALUE, for instance pdq:0f3c...")],
    item: Annotated[str, Parameter(help="the known media that these hashes describe")] = "",
    label: Annotated[tuple[str, ...], Parameter(negative="", help="tag; repeatable")] = (),
    note: Annotated[str, Parameter(help="why it is here")] = "",
    length: Annotated[int | None, Parameter(help="length of the hashed form, for tlsh")] = None,
    form: Annotated[str, Parameter(help="which view was hashed (tlsh: raw or normal)")] = "",
    quality: Annotated[int | None, Parameter(help="PDQ quality")] = None,
    operation: Operation = None,
    json: Json = False,
) -> int:
    """Add hashes by hand."""
    from msgspec.structs import replace

    from hashweir.sets import commands

    if not hashes:
        raise Usage("name what to add: KIND:VALUE, for instance pdq:0f3c...")
    shared = {"item": item, "labels": label, "note": note, "length": length, "form": form, "quality": quality}
    rows = [replace(row, **shared) for row in parse_hashes(hashes)]

    async def work(store: Store) -> Written:
        return await commands.add(store, commands.LOCAL, name, rows, operation=operation, log=log())

    return report(on_store(work), json, what="hash")


@app.command
def withdraw(
    name: Name,
    /,
    *hashes: Annotated[str, Parameter(help="hashes as KIND:VALUE; without --form all forms of the kind")],
    entry: Annotated[tuple[str, ...], Parameter(negative="", help="entry id; repeatable")] = (),
    form: Annotated[str, Parameter(help="only this form (tlsh: raw or normal)")] = "",
    reason: Annotated[str, Parameter(help="why; goes to the log")],
    operation: Operation = None,
    json: Json = False,
) -> int:
    """Withdraw hashes, at once. They stay as tombstones; adding them again brings them back."""
    from msgspec.structs import replace

    from hashweir.sets import commands

    if not entry and not hashes:
        raise Usage("name what to withdraw: KIND:VALUE or --entry ID")
    rows = [replace(row, form=form) for row in parse_hashes(hashes)]

    async def work(store: Store) -> Written:
        return await commands.withdraw(
            store, commands.LOCAL, name, rows, entry, reason=reason, operation=operation, log=log()
        )

    done = on_store(work)
    for one in done.missing:
        say(f"not in set {name}: {one}")
    return report(done, json, what="hash")


def parse_hashes(texts: Sequence[str]) -> list[Row]:
    """Rows of `KIND:VALUE` arguments. Raises Usage."""
    from hashweir.sets.read import Row, excerpt

    pairs = [text.partition(":") for text in texts]
    for text, (_, separator, _) in zip(texts, pairs, strict=True):
        if not separator:
            raise Usage(f"a hash is KIND:VALUE, for instance pdq:0f3c..., got {excerpt(text)}")
    return [Row(kind=kind, value=value) for kind, _, value in pairs]


def log() -> Logger:
    """What a person at a terminal should see of the log: that one person did what policy leaves to one."""
    return logs.setup("warning")


def report(done: Written, as_json: bool, what: str = "line") -> int:
    """Print what a write did and give its exit code: 3 where something was refused or missing, 1 where all was."""
    refused, accepted = done.report.refused, done.report.accepted
    for one in done.report.first:
        say(f"{what} {one.line}: {one.message} [{one.reason}]")
    if refused > len(done.report.first):
        say(f"... and {refused - len(done.report.first)} more")
    for reason, count in done.report.rejected.items():
        say(f"refused: {count} {reason}")
    for flag, count in done.report.flagged.items():
        say(f"worth a look: {count} {flag}")

    def human(out: Console) -> None:
        parts = [f"{count} {result}" for result, count in done.outcomes.items()]
        if done.dry_run:
            parts = [f"{accepted} would be written (dry run)"]
        out.print(f"{done.set}: {', '.join(parts) or 'nothing changed'}; {refused} refused")

    emit(done, as_json=as_json, human=human)
    if not as_json and done.operations:
        say(f"operation {done.operation}")
    missing = len(done.missing)
    if not refused and not missing:
        return OK
    return FAILED if accepted == missing else FINDINGS


def _set_changed(work: Callable[[Store], Awaitable[SetChanged]], words: str, as_json: bool) -> int:
    done = on_store(work)

    def human(out: Console) -> None:
        out.print(words if done.changed else f"set {done.set.name} was {done.set.state} already")

    emit(done, as_json=as_json, human=human)
    return OK


def _summary(one: Set) -> tuple[object, ...]:
    return one.name, one.state, one.ceiling, one.origin, one.owner, ", ".join(one.surfaces) or "all", one.version


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    return str(value)
