"""After the store lost changes that followers had seen: what it has now is accepted, under new epochs.

Until then followers keep the withdrawals they saw and cap actions. What was lost should be repeated first, under its
old operation ids: `sets import ... --operation ID` and the like apply what is missing and nothing twice.
"""

from __future__ import annotations

from functools import partial

from hashweir.logs import Logger, quiet
from hashweir.model import Value
from hashweir.ports import Position, Store
from hashweir.sets.write import patiently


class Accepted(Value, frozen=True):
    """One history that ended: of a shard, or of the sets (None). Positions before and after."""

    shard: int | None
    before: Position
    after: Position


async def positions(store: Store) -> list[tuple[int | None, Position]]:
    """Where every shard stands, and (None) the sets. Raises Unreachable, Refused."""
    heads = await store.heads()
    return [*((shard, head.position) for shard, head in enumerate(heads)), (None, (await store.read_sets()).position)]


async def accept(store: Store, principal: str, log: Logger | None = None) -> list[Accepted]:
    """Draw new epochs for all shards and the sets: followers take the store's word for everything from then on.

    Cut short, it is simply repeated. Raises Unreachable, Refused(store_changed).
    """
    done = []
    for shard, before in await positions(store):
        after = await patiently(partial(store.new_epoch, shard))
        done.append(Accepted(shard=shard, before=before, after=after))
    (log or quiet()).warning("sets.reconciled", principal=principal, shards=len(done) - 1)
    return done
