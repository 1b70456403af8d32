"""Makes the reserved set `canary`, whose one entry every canary must hit. `hashweir.canary` says what one is."""

from __future__ import annotations

from hashweir.canary import CANARY_PDQ, CANARY_SET
from hashweir.logs import Logger
from hashweir.model import Kind, Set, SetState
from hashweir.ports import Store
from hashweir.sets import commands
from hashweir.sets.read import Row
from hashweir.sets.write import new_operation, put_set


async def canary_state(store: Store) -> SetState | None:
    """The set's state; None where it is not there. Raises Unreachable."""
    return next((one.state for one in (await store.read_sets()).sets if one.name == CANARY_SET), None)


async def ensure_canary(store: Store, principal: str, *, log: Logger | None = None) -> bool:
    """Make what is missing of the set; whether something was. One that somebody switched off stays off.

    Its ceiling is `none`, and it reaches no farther than it must. Raises Unreachable.
    """
    there = {one.name: one for one in (await store.read_sets()).sets}.get(CANARY_SET)
    if there is None:
        radius: dict[Kind, int] = {"pdq": 10, "tlsh": 0}
        new = Set(name=CANARY_SET, owner="hashweir", origin="own-review", ceiling="none", radius=radius)
        there = await put_set(store, new_operation(), new)
    elif there.state != "shadow":
        return False
    row = Row(kind="pdq", value=CANARY_PDQ, item=CANARY_SET, quality=100)
    await commands.add(store, principal, CANARY_SET, [row], log=log)
    return (await commands.activate(store, principal, CANARY_SET, log=log)).changed
