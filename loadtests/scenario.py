"""Scenarios: TOML files that say what is sent, how fast, and what happens meanwhile."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "scenarios"
MEDIA = ("photo", "post", "pdf", "clip", "frame")
EVENTS = ("", "import", "stall")


class ScenarioError(Exception):
    """A scenario that is not there, or says something that has no meaning."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of one rate: absolute, or times what the bare scan processes or the saturated phase reached."""

    name: str
    seconds: float
    per_second: float = 0.0
    times_bare: float = 0.0
    times_sustained: float = 0.0
    saturates: bool = False
    """Its verdicts per second are the sustained rate."""
    most_backlog: int = 0
    """Uploads without a verdict at which arrivals stand still until there are fewer; 0: they wait for nothing. What is
    sent and not judged takes the machine's time from what is, so this finds the rate that can be kept up."""
    drain: bool = False
    """The next phase begins when nothing is left to judge."""
    also_per_second: float = 0.0
    """Uploads of `also` (a share of media) on top, such as the copies of one video."""
    scan_processes: int = 0
    """The workers are started anew with so many each before this phase; 0 leaves them as they are."""
    event: str = ""
    """`import`: `event_entries` entries are imported. `stall`: the first worker stops every other half second."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is known, what is sent, and the phases. Shares of `mix` are relative."""

    name: str
    title: str
    mix: dict[str, float]
    phases: tuple[Phase, ...]
    also: dict[str, float] = field(default_factory=dict)
    seed: int = 1
    workers: int = 1
    planted: float = 0.1
    """Share of photos and posts that are edits of known ones; every frame is one."""
    pool: int = 60
    """Different files per medium; each upload is one of them under a number of its own."""
    entries: int = 10_000
    """Entries of PDQ that nothing is near to."""
    event_entries: int = 100_000
    megapixels: tuple[float, float] = (0.5, 2.0)

    @property
    def seconds(self) -> float:
        """Length without the draining."""
        return sum(one.seconds for one in self.phases)

    def lasting(self, seconds: float) -> Scenario:
        """The same, with all phases longer or shorter in proportion."""
        factor = seconds / self.seconds
        return replace(self, phases=tuple(replace(one, seconds=one.seconds * factor) for one in self.phases))


def names() -> list[str]:
    """The scenarios that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Scenario:
    """A scenario by name, or by the path of a file. Raises ScenarioError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ScenarioError(f"there is no scenario {name!r}; there are {', '.join(names())}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path.name}: {error}") from None
    phases = tuple(_made(Phase, one, f"{path.name}, phase") for one in table.pop("phase", []))
    table["megapixels"] = tuple(table.get("megapixels", Scenario.megapixels))
    made: Scenario = _made(Scenario, table | {"phases": phases, "name": path.stem}, path.name)
    _check(made)
    return made


def _made(kind: Any, table: dict[str, Any], where: str) -> Any:
    if unknown := set(table) - {one.name for one in fields(kind)}:
        raise ScenarioError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    try:
        return kind(**table)
    except TypeError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _check(made: Scenario) -> None:
    if not made.phases or not made.mix:
        raise ScenarioError(f"{made.name}: needs a mix and at least one phase")
    if unknown := (set(made.mix) | set(made.also)) - set(MEDIA):
        raise ScenarioError(f"{made.name}: no medium {', '.join(sorted(unknown))}; there are {', '.join(MEDIA)}")
    saturated = False
    for one in made.phases:
        rates = [rate for rate in (one.per_second, one.times_bare, one.times_sustained) if rate]
        if len(rates) != 1 or rates[0] < 0 or one.seconds <= 0:
            raise ScenarioError(f"{made.name}, {one.name}: needs seconds and exactly one rate, both above 0")
        if one.times_sustained and not saturated:
            raise ScenarioError(f"{made.name}, {one.name}: times_sustained needs an earlier phase that saturates")
        if one.event not in EVENTS or (one.also_per_second and not made.also):
            raise ScenarioError(f"{made.name}, {one.name}: unknown event, or also_per_second without [also]")
        saturated = saturated or one.saturates
