"""`hashweir capacity`: cores, memory, partitions and the size of the store for a load, from measured costs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat

from hashweir.cli import Json, Usage
from hashweir.cli.capacity_model import COSTS, UTILISATION, Needs, needs
from hashweir.cli.output import emit, table

MIX_HELP = f"shares of media, such as photo=0.6,post=0.4; there are {', '.join(COSTS)}"


def capacity(
    *,
    uploads_per_second: Annotated[PositiveFloat, Parameter(help="the highest rate to keep up with")],
    entries: Annotated[NonNegativeInt, Parameter(help="entries of all sets")],
    mix: Annotated[str, Parameter(help=MIX_HELP)] = "photo=1",
    utilisation: Annotated[PositiveFloat, Parameter(help="share of the cores that the load may take")] = UTILISATION,
    look_back: Annotated[NonNegativeInt, Parameter(help="uploads that a worker remembers")] = 1_000_000,
    json: Json = False,
) -> None:
    """What a load needs, from costs measured on two cores (decision 0016): a start for a plan, and no promise."""
    try:
        found = needs(uploads_per_second, entries, read_mix(mix), utilisation=utilisation, look_back=look_back)
    except ValueError as error:
        raise Usage(str(error)) from None
    emit(found, as_json=json, human=lambda out: table(out, ("what", "needed"), rows(found)))


def read_mix(text: str) -> dict[str, float]:
    """Shares from `name=share` with commas between them. Raises Usage."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise Usage(f"{part!r} is no share of a medium, such as photo=0.6") from None
        if name.strip() not in COSTS:
            raise Usage(f"there is no medium {name.strip()!r}; there are {', '.join(COSTS)}")
    return shares


def rows(found: Needs) -> list[tuple[str, str]]:
    """What people read."""
    return [
        ("cores for workers, in all", f"{found.cores:g} (at {found.utilisation:.0%})"),
        ("workers", f"{found.workers} of {found.scan_processes_per_worker} scan processes"),
        ("memory of each worker", f"{found.memory_mib_per_worker:,} MiB, scan processes included"),
        ("partitions of the uploads topic", str(found.partitions)),
        ("Redis or Valkey", f"{found.store_mib:,} MiB of data, {found.store_memory_mib:,} MiB of memory"),
        ("cores of Redis or Valkey", f"{found.store_cores:g}, for comparing chunks"),
        ("uploads topic", f"{found.stream_mb_per_second:,} MB/s, {found.stream_gib_per_day:,} GiB a day and replica"),
    ]
