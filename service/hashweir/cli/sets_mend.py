"""`hashweir sets repair` and `hashweir sets reconcile`: for the day when the store is not what it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hashweir.cli import FINDINGS, OK, Json, Usage
from hashweir.cli.output import console, emit, say
from hashweir.cli.sets import log, on_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from hashweir.ports import Position, Store
    from hashweir.sets.damage import Damaged
    from hashweir.sets.read import Line
    from hashweir.sets.reconcile import Accepted
    from hashweir.sets.repair import Mended, Mender

Yes = Annotated[bool, Parameter(negative="", help="do it without asking")]
_ACCEPT_CHUNKS = "take what no source mends as it is, after listing every entry of the chunk"


def repair(
    *,
    export: Annotated[Path | None, Parameter(name="--from", help="an export of the set named by --set")] = None,
    set_name: Annotated[str, Parameter(name="--set", help="the set that --from is an export of")] = "",
    dry_run: Annotated[bool, Parameter(negative="", help="look for damage, mend nothing")] = False,
    accept: Annotated[bool, Parameter(negative="", help=_ACCEPT_CHUNKS)] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Find chunks that were damaged in the store and mend them. Reads the whole store.

    A chunk is mended where a source gives back its sum: the change stream, an export (--from FILE --set NAME), or the
    bytes with a single one changed. What stays damaged is named (exit code 3). Workers keep their verified copy
    meanwhile and judge by it; workers that start anew wait. --accept takes the rest as it is: every entry is listed
    and logged, and what a damaged slot says counts from then on, so withdraw what is wrong afterwards.
    """
    from hashweir.sets import commands
    from hashweir.sets.repair import Mender
    from hashweir.sets.repair import accept as accept_chunk

    if bool(export) != bool(set_name):
        raise Usage("--from FILE and --set NAME belong together: an export holds one set")

    async def work(store: Store) -> list[Mended]:
        damaged = await _damaged(store)
        of = await commands.find_set(store, set_name) if set_name else None
        sets = (await store.read_sets()).sets
        mender = Mender(store, sets, damaged, of, _lines(export) if export else ())
        told: list[Mended] = []
        for one in damaged:
            say(f"shard {one.shard}, {one.kind} chunk {one.number} does not give its sum")
            done = mender.unmended(one) if dry_run else await mender.mend(one, log())
            if done.outcome == "not_mended" and accept and not dry_run:
                _list(mender, one)
                if yes or _confirmed("accept these entries as they are?", "accept"):
                    done = await accept_chunk(store, commands.LOCAL, one, log())
            told.append(done)
        return told

    told = on_store(work)

    def human(out: Console) -> None:
        for one in told:
            source = f" from {one.source}" if one.source else ""
            slots = f"; slots {' '.join(map(str, one.slots))}" if one.slots else ""
            out.print(f"shard {one.shard} {one.kind} chunk {one.chunk}: {one.outcome.replace('_', ' ')}{source}{slots}")
            if one.outcome == "not_mended" and one.suspects:
                out.print(f"  slots whose id does not follow from their value: {' '.join(map(str, one.suspects))}")
            elif one.outcome == "not_mended":
                out.print(f"  all {one.entries} ids follow from their values: states, items or side records differ")
        out.print(f"{len(told)} chunks damaged, {sum(one.outcome != 'not_mended' for one in told)} put right")

    emit(told, as_json=json, human=human)
    left = [one for one in told if one.outcome == "not_mended"]
    if left and not dry_run:
        say("give an export of the set with --from FILE --set NAME, or take the rest as it is with --accept")
    return FINDINGS if left else OK


def reconcile(
    *,
    accept: Annotated[bool, Parameter(negative="", help="accept the store as it is, under new epochs")] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Rule on a store that lost changes (alarm `store_rewound`). Without --accept it only says how things stand.

    First repeat what was lost: every import, add and withdrawal since the last good moment, under its old operation id
    (`--operation ID`, from the log or the journal of whoever ran it). What is still there is not applied twice. Where
    there is an export from shortly before, `hashweir sets import` takes it: its withdrawn rows withdraw again.
    Then --accept: every shard gets a new epoch and workers take the store's word for everything. Withdrawals that
    they kept against the store and that were not repeated end with it: those entries are active again.
    """
    from hashweir.sets import commands
    from hashweir.sets import reconcile as ruling

    there = on_store(ruling.positions)
    if not accept:
        rows = [_standing(*one) for one in there]

        def human(out: Console) -> None:
            for row in rows:
                name = "sets" if row["shard"] is None else f"shard {row['shard']}"
                out.print(f"{name}: epoch {row['epoch']}, sequence {row['sequence']}")

        emit(rows, as_json=json, human=human)
        say("nothing was changed; repeat the lost operations, then run `hashweir sets reconcile --accept`")
        return OK
    say(f"{len(there) - 1} shards and the sets get new epochs: workers give up the withdrawals they kept against the")
    say("store, and end the cap on actions. What the store lost and nobody repeated is lost.")
    if not (yes or _confirmed("accept the store as it is?", "accept")):
        raise Usage("not confirmed: nothing was changed", "not_allowed")

    async def work(store: Store) -> list[Accepted]:
        return await ruling.accept(store, commands.LOCAL, log())

    done = on_store(work)
    rows = [_standing(one.shard, one.after) for one in done]
    emit(rows, as_json=json, human=lambda out: out.print(f"accepted: {len(done) - 1} shards and the sets"))
    return OK


def _standing(shard: int | None, position: Position) -> dict[str, object]:
    return {"shard": shard, "epoch": f"{position.epoch:016x}", "sequence": position.seq}


async def _damaged(store: Store) -> list[Damaged]:
    """All damaged chunks, with a progress bar on a terminal."""
    from rich.progress import Progress

    from hashweir.sets import damage

    found: list[Damaged] = []
    with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("chunks", total=None)
        async for count, total, one in damage.find(store):
            progress.update(task, completed=count, total=total)
            if one:
                found.append(one)
    return found


def _lines(export: Path) -> Iterator[Line]:
    """The lines of an export. Raises Usage for a file that is none."""
    import msgspec

    from hashweir.sets.read import Line

    decode = msgspec.json.Decoder(Line).decode
    try:
        with export.open("rb") as file:
            for number, text in enumerate(file, 1):
                line = decode(text)
                if not line.entry or line.added_ms is None:
                    raise Usage(f"{export} line {number}: no entry id or time; give what `sets export` wrote")
                yield line
    except OSError as error:
        raise Usage(f"can't read {export}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise Usage(f"{export} is no export of ours: {error}") from None


def _list(mender: Mender, damaged: Damaged) -> None:
    """Every entry of a chunk as it is now, on stderr."""
    for slot, entry, wrong in mender.entries(damaged):
        if entry is None:
            say(f"slot {slot}: no entry can be read here")
        else:
            mark = " (id does not follow from the value)" if wrong else ""
            say(f"slot {slot}: {entry.kind}:{entry.value} set {entry.set} {entry.state} entry {entry.id}{mark}")


def _confirmed(question: str, word: str) -> bool:
    """Whether a person at the terminal typed the word."""
    if not sys.stdin.isatty():
        raise Usage("nobody is there to ask: repeat with --yes", "not_allowed")
    say(f"{question} Type {word!r} to go on:")
    return sys.stdin.readline().strip() == word
