"""Two scrapes of each worker to the figures that `hashweir top` shows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from hashweir.metrics import PREFIX

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
TARGET_S = "0.25"
"""The edge of the latency objective."""


class Figures(Struct, frozen=True, kw_only=True):
    """What `--json` prints. Rates are per second over `seconds`; quantiles and shares too, None without events.

    `lag_s` is the age of the oldest record that is not done; `drain_s` what is left at this pace, None where the lag
    does not shrink. `verified_s` is the age of the oldest knowledge in use; gauges of what is known are of the worker
    that has most, except `standing`: workers by standing.
    """

    workers: int
    unreachable: tuple[str, ...]
    seconds: float
    uploads: float
    outcomes: dict[str, float]
    media: dict[str, float]
    actions: dict[str, float]
    p50_s: float | None
    p99_s: float | None
    in_time: float | None
    stages_p99_s: dict[str, float]
    lag_records: float
    lag_s: float
    drain_s: float | None
    partitions: float
    paused: dict[str, float]
    in_flight: float
    in_flight_bytes: float
    standing: dict[str, float]
    verified_s: float | None
    behind: float
    entries: dict[str, float]
    sets: dict[str, float]
    alarms: dict[str, float]
    scan_processes: float
    scan_busy: float
    scan_waiting: float
    memory_bytes: float
    cores: float
    loop_p99_s: float | None
    faults: dict[str, float]
    dead_letters: dict[str, float]
    deaths: dict[str, float]
    lost: float
    canaries: dict[str, float]


def read(page: str) -> Samples:
    """The samples of a metrics page. Raises ValueError where it is none of a hashweir worker."""
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    if not any(name == f"{PREFIX}build_info" for name, _ in found):
        raise ValueError("no metrics of hashweir")
    return found


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both scrapes of every worker that answered twice."""

    workers: Sequence[tuple[Samples, Samples]]
    seconds: float

    def now(self, name: str, by: str = "") -> dict[str, float]:
        """A gauge, summed over workers, by a label."""
        return _summed(one for _, after in self.workers for one in _of(after, name, by))

    def most(self, name: str, by: str = "") -> dict[str, float]:
        """A gauge of the worker that has most."""
        found: dict[str, float] = {}
        for _, after in self.workers:
            for label, value in _summed(_of(after, name, by)).items():
                found[label] = max(found.get(label, value), value)
        return found

    def grown(self, name: str, by: str = "", **only: str) -> dict[str, float]:
        """By how much a counter grew, by a label. One that went back began anew, as Prometheus has it."""
        return _summed(
            (label, value if value < former else value - former)
            for before, after in self.workers
            for label, value, former in _both(before, after, name, by, only)
        )

    def rate(self, name: str, by: str, **only: str) -> dict[str, float]:
        """Growth per second; what did not grow is left out."""
        return {key: value / self.seconds for key, value in self.grown(name, by, **only).items() if value}

    def quantile(self, share: float, name: str, **only: str) -> float | None:
        """Interpolated within its bucket, as Prometheus does; the last edge where it is beyond."""
        edges = sorted((float(edge), count) for edge, count in self.grown(f"{name}_bucket", "le", **only).items())
        if not edges or not edges[-1][1]:
            return None
        wanted, low, below = share * edges[-1][1], 0.0, 0.0
        for edge, count in edges:
            if count >= wanted:
                return low if math.isinf(edge) else low + (edge - low) * (wanted - below) / (count - below)
            low, below = edge, count
        return low


def figures(
    workers: Sequence[tuple[Samples, Samples]], seconds: float, now_s: float, unreachable: Sequence[str] = ()
) -> Figures:
    """Figures of workers, each scraped twice `seconds` apart, the second time at `now_s` (since 1970)."""
    pair = _Pair(workers, seconds)
    stages = {label for label in pair.grown("stage_duration_seconds_count", "stage") if label}
    p99 = {stage: pair.quantile(0.99, "stage_duration_seconds", stage=stage) for stage in sorted(stages)}
    uploads = _one(pair.grown("uploads_total"))
    light = sum(pair.grown("end_to_end_seconds_count", media=media).get("", 0.0) for media in ("image", "text"))
    soon = sum(
        pair.grown("end_to_end_seconds_bucket", media=media, le=TARGET_S).get("", 0.0) for media in ("image", "text")
    )
    lag = _one(pair.now("lag_records"))
    shrunk = (sum(_one(_summed(_of(before, "lag_records", ""))) for before, _ in workers) - lag) / seconds
    verified = [at for _, after in workers if (at := _one(_summed(_of(after, "last_verified_timestamp_seconds", ""))))]
    oldest = [
        at
        for _, after in workers
        for (name, _), at in after.items()
        if name == f"{PREFIX}oldest_unfinished_timestamp_seconds" and at
    ]
    applied = [_one(_summed(_of(after, "applied_sequence", ""))) for _, after in workers]
    heads = [_one(_summed(_of(after, "head_sequence", ""))) for _, after in workers]
    cpu = [
        after.get(("process_cpu_seconds_total", frozenset()), 0.0)
        - before.get(("process_cpu_seconds_total", frozenset()), 0.0)
        for before, after in workers
    ]
    own = sum(after.get(("process_resident_memory_bytes", frozenset()), 0.0) for _, after in workers)
    return Figures(
        workers=len(workers),
        unreachable=tuple(unreachable),
        seconds=round(seconds, 3),
        uploads=uploads / seconds,
        outcomes=pair.rate("uploads_total", "outcome"),
        media=pair.rate("uploads_total", "media"),
        actions=pair.rate("matches_total", "action"),
        p50_s=pair.quantile(0.5, "end_to_end_seconds"),
        p99_s=pair.quantile(0.99, "end_to_end_seconds"),
        in_time=soon / light if light else None,
        stages_p99_s={stage: value for stage, value in p99.items() if value is not None},
        lag_records=lag,
        lag_s=max(0.0, now_s - min(oldest)) if oldest else 0.0,
        drain_s=lag / shrunk if shrunk > 0 and lag else None,
        partitions=_one(pair.now("partitions_assigned")),
        paused=_some(pair.now("paused_partitions", "why")),
        in_flight=_one(pair.now("in_flight_items")),
        in_flight_bytes=_one(pair.now("in_flight_bytes")),
        standing=_some(pair.now("known_standing", "standing")),
        verified_s=max(0.0, now_s - min(verified)) if verified else None,
        behind=max((head - at for head, at in zip(heads, applied, strict=True)), default=0.0),
        entries=_some(pair.most("index_entries", "kind")),
        sets=_some(pair.most("sets", "state")),
        alarms=_some(pair.most("store_alarms", "reason")),
        scan_processes=_one(pair.now("scan_processes")),
        scan_busy=_one(pair.now("scan_processes_busy")),
        scan_waiting=_one(pair.now("scan_waiting_items")),
        memory_bytes=own + _one(pair.now("scan_resident_bytes")),
        cores=max(0.0, sum(cpu)) / seconds,
        loop_p99_s=pair.quantile(0.99, "loop_lag_seconds"),
        faults=pair.rate("unscanned_total", "reason", **{"class": "fault"}),
        dead_letters=pair.rate("dead_letters_total", "reason"),
        deaths={why: count for why, count in pair.grown("scan_deaths_total", "why").items() if count},
        lost=_one(pair.now("lost_records_total")),
        canaries={result: count for result, count in pair.grown("canary_uploads_total", "result").items() if count},
    )


def _of(page: Samples, name: str, by: str) -> Iterable[tuple[str, float]]:
    for (sample, labels), value in page.items():
        if sample == PREFIX + name:
            yield dict(labels).get(by, ""), value


def _both(
    before: Samples, after: Samples, name: str, by: str, only: Mapping[str, str]
) -> Iterable[tuple[str, float, float]]:
    for key, value in after.items():
        if key[0] == PREFIX + name:
            labels = dict(key[1])
            if all(labels.get(label) == wanted for label, wanted in only.items()):
                yield labels.get(by, ""), value, before.get(key, 0.0)


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for label, value in pairs:
        found[label] = found.get(label, 0.0) + value
    return found


def _one(values: Mapping[str, float]) -> float:
    return values.get("", 0.0)


def _some(values: Mapping[str, float]) -> dict[str, float]:
    return {label: value for label, value in values.items() if value}
