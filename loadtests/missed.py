"""Planted copies whose verdict does not say of what they are a copy, named for whoever reads a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtests.drive import Sent
from loadtests.generate import measured

MOST = 50
"""Of more missed copies, the first are named."""


def missed(number: int, one: Sent) -> dict[str, Any]:
    """A planted copy without its match: what it is, how far it is by the oracle, and what was said of it."""
    assert one.piece.original is not None
    distance, radius = measured(one.piece, number)
    return {
        "upload": str(number),
        "medium": one.piece.medium,
        "copy_of": one.piece.original.item,
        "edit": one.piece.edit,
        "kind": one.piece.original.kind,
        "distance": distance,
        "radius": radius,
        "outcome": one.outcome,
        "reason": one.reason,
        "other_hits": len(one.hits),
    }


def missed_rows(missed: Sequence[dict[str, Any]]) -> list[str]:
    """The table of missed copies; nothing where there is none."""
    if not missed:
        return []
    cells = (
        (
            f"{one['upload']}",
            f"{one['medium']}, {one['edit']}",
            one["copy_of"],
            f"{one['kind']} {one['distance']} of {one['radius']}",
            f"{one['outcome']} {one['reason'] or ''}",
            f"{one['other_hits']}",
        )
        for one in missed
    )
    return [
        "| missed upload | what | copy of | distance of radius, by the oracle | verdict | other hits |",
        "|---" * 6 + "|",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]
