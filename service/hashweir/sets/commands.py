"""What people do with sets: create, add, import, withdraw, activate, off, export. The only writer to the store.

`principal` is who asks, as the door knows it, never as the caller says. `local` is the command line working on
the store itself: one person, who can approve nothing. Every command may be repeated under its operation id.
Long because what people can do is read in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Final

from msgspec import convert, structs

from hashweir.canary import CANARY_SET
from hashweir.errors import InputError, Refused
from hashweir.logs import Logger, quiet
from hashweir.model import ACTIONS, Action, Kind, Origin, Set, SetEvent, SetForm, SetState, Surface, Value
from hashweir.ports import Store
from hashweir.sets import held
from hashweir.sets.bulk import BulkWriter
from hashweir.sets.read import Line, Rejection, Row, excerpt
from hashweir.sets.validate import BULK, Change, Report, Validator
from hashweir.sets.write import (
    MOST_CHANGES,
    Publish,
    Writer,
    Written,
    new_operation,
    now_ms,
    put_set,
)

LOCAL = "local"
ALONE: Final[Action] = "review"
"""The strongest ceiling of a set that one person may activate."""


class SetChanged(Value, frozen=True):
    """The answer to create, activate and off. `unapproved`: one person did what policy lets one person do."""

    operation: str
    set: Set
    changed: bool
    unapproved: bool = False
    events: tuple[SetEvent, ...] = ()


async def find_set(store: Store, name: str) -> Set:
    """A set by name. Raises Refused(set_not_found) that says which sets exist and how to create this one."""
    sets = (await store.read_sets()).sets
    for one in sets:
        if one.name == name:
            return one
    names = sorted(one.name for one in sets)
    there = f"sets that exist: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else "none exist"
    how = f"create it with `hashweir sets create {name} --owner ... --origin ...`"
    raise Refused("set_not_found", f"no set {excerpt(name)}; {there}; {how}")


async def create(
    store: Store,
    principal: str,
    *,
    name: str,
    owner: str,
    origin: Origin,
    ceiling: Action = ALONE,
    surfaces: tuple[Surface, ...] = (),
    radius: Mapping[Kind, int] | None = None,
    min_quality: int = 50,
    forms: tuple[SetForm, ...] = (),
    video_shares: tuple[float, float] = (0.8, 0.0),
    operation: str | None = None,
    log: Logger | None = None,
) -> SetChanged:
    """Create a set, in shadow: it counts hits and changes no action until it is activated.

    `radius` overrides the default radius of the kinds that it names; `forms` of pictures are looked up beside the
    canonical one; `video_shares` are those of the upload's and of the known video's frames from which on frame hits
    are a match.

    Raises InputError(bad_field) for values out of range and for the reserved name `canary`; Refused(not_allowed) for
    a government referral above `review`; Refused(set_exists); Unreachable.
    """
    if name == CANARY_SET:
        raise InputError("bad_field", f"the name {name!r} is reserved; `hashweir check --create` makes that set")
    wanted: dict[str, object] = {"name": name, "owner": owner, "origin": origin, "ceiling": ceiling}
    wanted |= {"surfaces": surfaces, "min_quality": min_quality, "forms": tuple(dict.fromkeys(forms))}
    wanted |= {"video_share_upload": video_shares[0], "video_share_known": video_shares[1]}
    try:
        new = convert(wanted, Set)
        if radius:
            new = convert({**wanted, "radius": {**new.radius, **radius}}, Set)
    except ValueError as error:
        raise InputError("bad_field", f"set {excerpt(name)}: {error}") from None
    _check_referral(new)
    operation = operation or new_operation()
    try:
        made = await put_set(store, operation, new)
    except Refused as error:
        if error.reason != "set_exists":
            raise
        words = f"set {name!r} exists already; see it with `hashweir sets show {name}`"
        raise Refused("set_exists", words) from error
    (log or quiet()).info("sets.set_changed", set=name, what="created", principal=principal, operation=operation)
    return SetChanged(operation=operation, set=made, changed=True)


async def activate(
    store: Store,
    principal: str,
    name: str,
    *,
    allow_local_activation: bool = False,
    operation: str | None = None,
    log: Logger | None = None,
) -> SetChanged:
    """Let a set's hits count. One person may do it up to ceiling `review`, which is logged as unapproved.

    Raises Refused(not_allowed) where the ceiling asks for a second person; Refused(set_not_found); Unreachable.
    """

    def allowed(one: Set) -> None:
        _check_referral(one)
        if ACTIONS.index(one.ceiling) <= ACTIONS.index(ALONE):
            return
        if principal == LOCAL and allow_local_activation:
            return
        raise Refused(
            "not_allowed",
            f"set {name!r} may recommend {one.ceiling!r}: above {ALONE!r} one person may not activate it alone "
            "(sets.allow_local_activation permits it, for trials)",
        )

    return await _turn(store, principal, name, "active", allowed, operation, log)


async def off(
    store: Store, principal: str, name: str, *, operation: str | None = None, log: Logger | None = None
) -> SetChanged:
    """Switch a set off everywhere, at once; one person suffices.

    Raises Refused(set_not_found); Unreachable.
    """
    return await _turn(store, principal, name, "off", lambda _: None, operation, log)


async def _turn(
    store: Store,
    principal: str,
    name: str,
    state: SetState,
    allowed: Callable[[Set], None],
    operation: str | None,
    log: Logger | None,
) -> SetChanged:
    operation = operation or new_operation()
    for left in reversed(range(5)):
        now = await find_set(store, name)
        if now.state == state:
            return SetChanged(operation=operation, set=now, changed=False)
        allowed(now)
        try:
            then = await put_set(store, operation, structs.replace(now, state=state))
            break
        except Refused as error:
            # Somebody else changed the set between the read and the write: judge what it is now.
            if error.reason != "set_changed" or not left:
                raise
    event = SetEvent(
        what="set_activated" if state == "active" else "set_off", set=name, operation=operation, at_ms=now_ms()
    )
    unapproved = state == "active"
    say = (log or quiet()).warning
    say("sets.set_changed", set=name, what=state, principal=principal, operation=operation, unapproved=unapproved)
    return SetChanged(operation=operation, set=then, changed=True, unapproved=unapproved, events=(event,))


async def import_rows(
    store: Store,
    principal: str,
    name: str,
    rows: Iterable[tuple[int, Row | Rejection]],
    *,
    labels: tuple[str, ...] = (),
    note: str = "",
    dry_run: bool = False,
    operation: str | None = None,
    publish: Publish | None = None,
    rejected: Callable[[int, Rejection], None] | None = None,
    log: Logger | None = None,
) -> Written:
    """Validate rows as they come and write them in operations of 256; a bad row never stops the rest.

    `rows` are (line number, row), as `sets.read.Reader` gives them. A row of state `retired` withdraws its entry.
    Entries that the set holds already are `unchanged`: their labels and note stay. With `dry_run` nothing is
    written and the report is the same. Repeated under the same operation id, an import completes what is missing.

    Raises Refused(set_not_found); InputError(bad_field) for `labels` and `note`; OutcomeUnknown or Unreachable,
    saying how far it came and how to repeat.
    """
    into = await find_set(store, name)
    operation = operation or new_operation()
    time_ms = now_ms()
    validator = Validator(into, principal=principal, now_ms=time_ms, labels=labels, note=note)
    checked = validator.check(rows)
    first = list(islice(checked, MOST_CHANGES + 1))
    made = Writer if len(first) <= MOST_CHANGES else BulkWriter
    writer = made(store, principal, into, operation, time_ms, publish)
    runs = chain([first], iter(lambda: list(islice(checked, MOST_CHANGES)), []))
    async with writer:
        for run in runs:
            good = [change for _, change in run if isinstance(change, Change)]
            for line, refused in run:
                if rejected and isinstance(refused, Rejection):
                    rejected(line, refused)
            if good and not dry_run:
                await writer.write(good)
            await asyncio.sleep(0)  # reading and checking hold the loop: let others have their turn
    written = structs.replace(writer.answer(validator.report()), dry_run=dry_run)
    _log_written(log, principal, written)
    return written


async def add(
    store: Store,
    principal: str,
    name: str,
    rows: Sequence[Row],
    *,
    operation: str | None = None,
    publish: Publish | None = None,
    log: Logger | None = None,
) -> Written:
    """Add a few entries by hand; "lines" of the report are their places, from 1. Raises as `import_rows`."""
    numbered = enumerate(rows, start=1)
    return await import_rows(store, principal, name, numbered, operation=operation, publish=publish, log=log)


async def withdraw(
    store: Store,
    principal: str,
    name: str,
    hashes: Sequence[Row] = (),
    entry_ids: Sequence[str] = (),
    *,
    reason: str,
    operation: str | None = None,
    publish: Publish | None = None,
    log: Logger | None = None,
) -> Written:
    """Withdraw entries, by hash (a hash without a form means all its forms) or by entry id, at once.

    What the set does not hold is `not_found` and named in `missing`. Raises InputError for a malformed hash or
    id; Refused(not_allowed) for more than 256, which is a bulk withdrawal; Refused(set_not_found); Unreachable.
    """
    if len(hashes) + len(entry_ids) > BULK:
        words = f"more than {BULK} withdrawals at once need a second person; switching a set off needs one"
        raise Refused("not_allowed", words)
    into = await find_set(store, name)
    operation = operation or new_operation()
    changes, missing = await held.resolve(store, into, hashes, entry_ids)
    writer = Writer(store, principal, into, operation, now_ms(), publish)
    for start in range(0, len(changes), MOST_CHANGES):
        await writer.write(changes[start : start + MOST_CHANGES])
    writer.outcomes["not_found"] += len(missing)
    asked = len(hashes) + len(entry_ids)
    written = writer.answer(Report(rows=asked, accepted=asked), missing=missing)
    _log_written(log, principal, written, why=reason)
    return written


async def export(
    store: Store, principal: str, name: str, *, only_active: bool = False, log: Logger | None = None
) -> AsyncIterator[list[Line]]:
    """The entries of a set as lines of our own JSON form, in runs. Raises Refused(set_not_found); Unreachable."""
    of = await find_set(store, name)
    (log or quiet()).warning("sets.exported", set=name, principal=principal)
    async for run in held.lines(store, of, only_active=only_active):
        yield run


def _check_referral(one: Set) -> None:
    """What a government asks for is looked at by a person, always."""
    if one.origin == "government-referral" and ACTIONS.index(one.ceiling) > ACTIONS.index(ALONE):
        words = f"a set of origin government-referral never goes above {ALONE!r}; its ceiling is {one.ceiling!r}"
        raise Refused("not_allowed", words)


def _log_written(log: Logger | None, principal: str, written: Written, why: str = "") -> None:
    say = (log or quiet()).warning if why else (log or quiet()).info
    say(
        "sets.written",
        set=written.set,
        principal=principal,
        operation=written.operation,
        outcomes=written.outcomes,
        rejected=written.report.refused,
        dry_run=written.dry_run,
        why=why[:200],
    )
