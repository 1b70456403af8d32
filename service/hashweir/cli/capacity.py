"""`hashweir capacity`: cores, memory, partitions and the size of the store for a load, from measured costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat

from hashweir.cli import Json, Usage, settings
from hashweir.cli.capacity_model import COSTS, STORE_CORES, UTILISATION, Needs, needs
from hashweir.cli.output import emit, table

if TYPE_CHECKING:
    from hashweir.config import Config

MIX_HELP = f"shares of media, such as photo=0.6,post=0.4; there are {', '.join(COSTS)}"


def capacity(
    *,
    uploads_per_second: Annotated[PositiveFloat, Parameter(help="the highest rate to keep up with")],
    entries: Annotated[NonNegativeInt, Parameter(help="entries of all sets")],
    mix: Annotated[str, Parameter(help=MIX_HELP)] = "photo=1",
    utilisation: Annotated[PositiveFloat, Parameter(help="share of the cores that the load may take")] = UTILISATION,
    look_back: Annotated[
        NonNegativeInt | None, Parameter(help="uploads that a worker remembers (default: look_back.uploads)")
    ] = None,
    json: Json = False,
) -> None:
    """What a load needs, from costs measured on two cores (decision 0016): a start for a plan, and no promise.

    It reckons with workers of this configuration, and with a store on another machine.
    """
    config = settings()
    if look_back is not None:
        changed = config.look_back.model_copy(update={"uploads": look_back})
        config = config.model_copy(update={"look_back": changed})
    try:
        found = needs(uploads_per_second, entries, read_mix(mix), utilisation=utilisation, config=config)
    except ValueError as error:
        raise Usage(str(error)) from None
    emit(found, as_json=json, human=lambda out: table(out, ("what", "needed"), rows(found, config)))


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


def rows(found: Needs, config: Config) -> list[tuple[str, str]]:
    """What people read."""
    given, takes = config.index.scrub_round_seconds, found.scrub_round_seconds
    widened = f": set it so, as in {given:g} s comparing takes over half of the store's core, or too much of a worker's"
    return [
        ("cores for workers, in all", f"{found.cores:g} (at {found.utilisation:.0%})"),
        ("workers", f"{found.workers} of {found.scan_processes_per_worker} scan processes"),
        (
            "memory of each worker, usual",
            f"{found.memory_usual_mib_per_worker:,} MiB, scan processes included: ask for it",
        ),
        (
            "memory of each worker, limit",
            f"{found.memory_limit_mib_per_worker:,} MiB, with every scan process at its fence",
        ),
        ("partitions of the uploads topic", str(found.partitions)),
        ("Redis or Valkey", f"{found.store_mib:,} MiB of data, {found.store_memory_mib:,} MiB of memory"),
        ("cores of Redis or Valkey", f"{found.store_cores:g} for comparing chunks, at most {STORE_CORES:g} of its one"),
        ("index.scrub_round_seconds", f"{takes:g}{widened if takes > given else ''}"),
        ("uploads topic", f"{found.stream_mb_per_second:,} MB/s, {found.stream_gib_per_day:,} GiB a day and replica"),
    ]
