"""Every metric, in one home: the table below is what is exported, what is documented and what is tested.

Labels come from closed lists, and a closed label set starts at 0, so that a rate over a metric that has not
happened yet is 0 and not "no data". Only topic, partition and shard are open, bounded by what is assigned.
Moments are exported, not ages: `time() - moment` goes on growing where the process hangs.
Long because it is the one home: a metric, its labels and its edges are read together.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from hashweir.errors import REASONS
from hashweir.tally import Count, Number, Tally

PREFIX = "hashweir_"
Labels = tuple[str, ...]

# Words of `model`, which stands above this module; a test holds the two together.
MEDIA: Labels = ("image", "video", "text", "document", "unknown")
OUTCOMES: Labels = ("match", "clear", "unscanned")
KINDS: Labels = ("pdq", "tlsh", "sha256", "md5", "text")
BANDS: Labels = ("exact", "a", "b", "c")
ACTIONS: Labels = ("none", "log", "review", "hold", "block")

STAGES: Labels = ("ingest", "fetch", "scan_wait", "decode", "hash", "lookup", "decide", "publish")
PAUSES: Labels = ("standing", "budget", "span", "sink", "source", "brake", "lost_range", "draining")
"""Why a partition is paused; several can hold at once."""
DEATHS: Labels = ("exit", "signal", "forbidden", "deadline", "memory", "bad_reply", "recycled")
FENCES: Labels = ("limits", "no_new_privileges", "not_dumpable", "no_network", "landlock", "seccomp")
CACHE: Labels = ("hit", "miss")
CANARY: Labels = ("found", "missed", "late", "absent", "unsent")
"""How a canary's turn ended. late: no verdict within the period. absent: the set `canary` is not there."""
SET_STATES: Labels = ("shadow", "active", "off")
HIT_STATES: Labels = ("active", "shadow", "quarantined", "below_share")
DOUBTS: Labels = ("loading", "gap", "sum", "epoch", "rewind", "replication", "missing", "damaged")
STANDINGS: Labels = ("empty", "verified", "degraded", "stale", "doubtful")
UPLOAD_REASONS: Labels = tuple(
    reason for reason, row in REASONS.items() if row.stage in ("ingest", "fetch", "scan", "lookup", "decide")
)
SAVE_REASONS: Labels = ("saved_in_use", "saved_unwritable", "ring_in_use", "ring_unwritable")
STORE_REASONS: Labels = tuple(reason for reason, row in REASONS.items() if row.stage == "store")
DEAD_LETTER_REASONS: Labels = tuple(reason for reason, row in REASONS.items() if row.dead_letter)
LATE: Labels = ("match", "clear", "unscanned", "same", "failed")
"""What came of deciding an upload again: a late verdict of this outcome, nothing new, or an error."""

# Edges lie on the objectives, or a quantile there is a guess: end to end and change to live 0.25 s, lookup 0.01 s.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
LIVE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0)
DISTANCES = (0.0, 4.0, 10.0, 20.0, 31.0, 64.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. A label without a list of values is open; `sets` lists combinations where not all occur."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Mapping[str, Labels | None]
    edges: tuple[float, ...] = ()
    sets: tuple[Labels, ...] | None = None

    def starts(self) -> Iterator[Labels]:
        """The label sets that exist from the start."""
        if self.sets is not None:
            yield from self.sets
        elif self.labels and all(values is not None for values in self.labels.values()):
            yield from itertools.product(*(values or () for values in self.labels.values()))


_PARTITION: dict[str, Labels | None] = {"topic": None, "partition": None}
_UNSCANNED = tuple((reason, REASONS[reason].klass) for reason in UPLOAD_REASONS)

TABLE: tuple[Row, ...] = (
    # ── uploads ──
    Row("uploads_total", "counter", "Verdicts acknowledged.", {"media": MEDIA, "outcome": OUTCOMES}),
    Row(
        "end_to_end_seconds",
        "histogram",
        "From the record's timestamp to the verdict's ack.",
        {"media": MEDIA},
        SECONDS,
    ),
    Row("stage_duration_seconds", "histogram", "Time in one stage.", {"stage": STAGES}, STAGE_SECONDS),
    Row(
        "matches_total",
        "counter",
        "Verdicts with outcome match, by their best band and their action.",
        {"band": BANDS, "action": ACTIONS},
    ),
    Row(
        "hits_total",
        "counter",
        "Listed hits of verdicts; all but active ones recommend nothing.",
        {"state": HIT_STATES},
    ),
    Row(
        "match_distance",
        "histogram",
        "Distance of the nearest hit of a match.",
        {"kind": ("pdq", "tlsh")},
        DISTANCES,
    ),
    Row(
        "unscanned_total",
        "counter",
        "Verdicts that say: could not check.",
        {"reason": UPLOAD_REASONS, "class": ("input", "fault")},
        sets=_UNSCANNED,
    ),
    Row("dead_letters_total", "counter", "Dead letters acknowledged.", {"reason": DEAD_LETTER_REASONS}),
    Row("relayed_total", "counter", "Uploads handed on to the long topic, acknowledged.", {}),
    Row("retries_total", "counter", "Attempts made again in place.", {"dependency": ("match", "sink")}),
    # ── canary: counted here and nowhere else ──
    Row("canary_period_seconds", "gauge", "Time between canaries of a partition; 0: none are sent.", {}),
    Row("canary_uploads_total", "counter", "Turns of canaries by how they ended.", {"result": CANARY}),
    Row("canary_seconds", "histogram", "From the canary record's timestamp to its verdict's ack.", {}, SECONDS),
    # ── stream ──
    Row("records_taken_total", "counter", "Records taken from the stream.", {"topic": None}),
    Row(
        "oldest_unfinished_timestamp_seconds",
        "gauge",
        "Timestamp of the oldest record that is not done; 0: all are.",
        _PARTITION,
    ),
    Row(
        "retention_seconds",
        "gauge",
        "How long the topic keeps a record, asked every 5 minutes; -1: for ever.",
        {"topic": None},
    ),
    Row("poll_failures_total", "counter", "Polls that the broker did not answer.", {}),
    Row("in_flight_items", "gauge", "Uploads taken and not done.", {}),
    Row("in_flight_bytes", "gauge", "Bytes of uploads taken and not done.", {}),
    Row(
        "oldest_in_flight_timestamp_seconds",
        "gauge",
        "When the oldest upload in flight was taken; 0: none.",
        {},
    ),
    Row("lag_records", "gauge", "Records behind the end of the partition, as last seen.", _PARTITION),
    Row("partitions_assigned", "gauge", "Partitions assigned to this worker.", {}),
    Row(
        "paused_partitions",
        "gauge",
        "Partitions paused; one may be paused for several reasons.",
        {"why": PAUSES},
    ),
    Row("rebalances_total", "counter", "Assignments received.", {}),
    Row("commit_failures_total", "counter", "Commits refused or not answered in time.", {}),
    Row("lost_records_total", "counter", "Records deleted before they were read.", _PARTITION),
    # ── what is known ──
    Row("sets", "gauge", "Sets by state.", {"state": SET_STATES}),
    Row(
        "shard_followed", "gauge", "1 where it is followed here, 0 where `shards.only` leaves it out.", {"shard": None}
    ),
    Row("shard_slots", "gauge", "Slots in use, withdrawn entries included.", {"shard": None}),
    Row("shard_verified_timestamp_seconds", "gauge", "Server time of the last head it agreed with.", {"shard": None}),
    Row("shards_doubtful", "gauge", "Shards that may not be judged by, by why.", {"doubt": DOUBTS}),
    Row("copy_saved_timestamp_seconds", "gauge", "When what is known was last saved; 0: not yet.", {}),
    Row(
        "save_failures_total",
        "counter",
        "Times the state, or the look-back's ring, could not be saved.",
        {"reason": SAVE_REASONS},
    ),
    Row("store_alarms", "gauge", "What is wrong with the store now and needs a person.", {"reason": STORE_REASONS}),
    Row("store_failures_total", "counter", "Times the store gave no answer or a refusal.", {"reason": STORE_REASONS}),
    Row("index_entries", "gauge", "Entries that a search can return.", {"kind": KINDS}),
    Row("applied_sequence", "gauge", "Last change applied here.", {"shard": None}),
    Row("head_sequence", "gauge", "Last change in the store, as last asked.", {"shard": None}),
    Row("known_standing", "gauge", "1 at how far what is known may be trusted now.", {"standing": STANDINGS}),
    Row("last_verified_timestamp_seconds", "gauge", "When every head in use was last verified; 0: never.", {}),
    Row(
        "change_to_live_seconds",
        "histogram",
        "From a change's time in the store to its effect here.",
        {},
        LIVE_SECONDS,
    ),
    # ── look-back ──
    Row("look_back_uploads", "gauge", "Uploads that new entries are held against.", {}),
    Row("look_back_bytes", "gauge", "Memory of these uploads.", {}),
    Row("look_back_oldest_timestamp_seconds", "gauge", "When the oldest of them was judged; 0: none.", {}),
    Row("look_back_saved_timestamp_seconds", "gauge", "When they were last saved; 0: never.", {}),
    Row("look_back_waiting_entries", "gauge", "New entries not looked back for yet.", {}),
    Row("look_back_entries_total", "counter", "New entries that were held against them.", {}),
    Row("look_back_sweeps_total", "counter", "Times all of them were held against all that is known.", {}),
    Row("look_back_entry_seconds", "histogram", "Search time for one new entry.", {}, STAGE_SECONDS),
    Row("late_verdicts_total", "counter", "Uploads that were decided again.", {"result": LATE}),
    # ── process ──
    Row("scan_processes", "gauge", "Scan processes that are ready.", {}),
    Row("scan_processes_busy", "gauge", "Scan processes with an upload.", {}),
    Row("scan_waiting_items", "gauge", "Uploads that wait for a scan process.", {}),
    Row("scan_resident_bytes", "gauge", "Memory of all scan processes.", {}),
    Row("loop_lag_seconds", "histogram", "How late the event loop came back to a timer.", {}, LAG_SECONDS),
    Row("scan_deaths_total", "counter", "Scan processes that ended or were ended.", {"why": DEATHS}),
    Row("sandbox_level", "gauge", "1 where every scan process stands behind this fence.", {"fence": FENCES}),
    Row("scan_cache_total", "counter", "Uploads by whether an equal one was scanned lately.", {"result": CACHE}),
    Row("build_info", "gauge", "Always 1.", {"version": None, "python": None}),
)

_Metric = TypeVar("_Metric", Counter, Count, Gauge, Tally)


class Metrics:
    """All metrics, in one registry. Tests make as many as they like, each with its own registry."""

    def __init__(self, registry: CollectorRegistry | None = None, *, version: str = "") -> None:
        """Raises ValueError where the registry holds these metrics already."""
        # Else each counter and histogram has a series more that says when it was made, and nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry(auto_describe=True)
        self._left = {row.name: row for row in TABLE}
        self.uploads = self._make(Count, "uploads_total")
        self.end_to_end = self._make(Tally, "end_to_end_seconds")
        self.stage_duration = self._make(Tally, "stage_duration_seconds")
        self.hits = self._make(Counter, "hits_total")
        self.canary_period = self._make(Gauge, "canary_period_seconds")
        self.canary_uploads = self._make(Counter, "canary_uploads_total")
        self.canary_seconds = self._make(Tally, "canary_seconds")
        self.records_taken = self._make(Count, "records_taken_total")
        self.oldest_unfinished = self._make(Gauge, "oldest_unfinished_timestamp_seconds")
        self.retention = self._make(Gauge, "retention_seconds")
        self.poll_failures = self._make(Counter, "poll_failures_total")
        self.sets = self._make(Gauge, "sets")
        self.shard_followed = self._make(Gauge, "shard_followed")
        self.shard_slots = self._make(Gauge, "shard_slots")
        self.shard_verified = self._make(Gauge, "shard_verified_timestamp_seconds")
        self.shards_doubtful = self._make(Gauge, "shards_doubtful")
        self.copy_saved = self._make(Gauge, "copy_saved_timestamp_seconds")
        self.save_failures = self._make(Counter, "save_failures_total")
        self.store_alarms = self._make(Gauge, "store_alarms")
        self.store_failures = self._make(Counter, "store_failures_total")
        self.scan_processes = self._make(Gauge, "scan_processes")
        self.scan_busy = self._make(Gauge, "scan_processes_busy")
        self.scan_waiting = self._make(Gauge, "scan_waiting_items")
        self.scan_resident = self._make(Gauge, "scan_resident_bytes")
        self.loop_lag = self._make(Tally, "loop_lag_seconds")
        # What every upload asks for is looked up once.
        self._taken: dict[str, Number] = {}
        self._judged = {values: self.uploads.labels(*values) for values in itertools.product(MEDIA, OUTCOMES)}
        self._ends = {media: self.end_to_end.labels(media) for media in MEDIA}
        self._stages = {stage: self.stage_duration.labels(stage) for stage in STAGES}
        self.matches = self._make(Counter, "matches_total")
        self.match_distance = self._make(Tally, "match_distance")
        self.unscanned = self._make(Counter, "unscanned_total")
        self.dead_letters = self._make(Counter, "dead_letters_total")
        self.relayed = self._make(Counter, "relayed_total")
        self.retries = self._make(Counter, "retries_total")
        self.in_flight_items = self._make(Gauge, "in_flight_items")
        self.in_flight_bytes = self._make(Gauge, "in_flight_bytes")
        self.oldest_in_flight = self._make(Gauge, "oldest_in_flight_timestamp_seconds")
        self.lag = self._make(Gauge, "lag_records")
        self.partitions_assigned = self._make(Gauge, "partitions_assigned")
        self.paused_partitions = self._make(Gauge, "paused_partitions")
        self.rebalances = self._make(Counter, "rebalances_total")
        self.commit_failures = self._make(Counter, "commit_failures_total")
        self.lost_records = self._make(Counter, "lost_records_total")
        self.index_entries = self._make(Gauge, "index_entries")
        self.applied_sequence = self._make(Gauge, "applied_sequence")
        self.head_sequence = self._make(Gauge, "head_sequence")
        self.standing = self._make(Gauge, "known_standing")
        self.last_verified = self._make(Gauge, "last_verified_timestamp_seconds")
        self.change_to_live = self._make(Tally, "change_to_live_seconds")
        self.look_back_uploads = self._make(Gauge, "look_back_uploads")
        self.look_back_bytes = self._make(Gauge, "look_back_bytes")
        self.look_back_oldest = self._make(Gauge, "look_back_oldest_timestamp_seconds")
        self.look_back_saved = self._make(Gauge, "look_back_saved_timestamp_seconds")
        self.look_back_waiting = self._make(Gauge, "look_back_waiting_entries")
        self.look_back_entries = self._make(Counter, "look_back_entries_total")
        self.look_back_sweeps = self._make(Counter, "look_back_sweeps_total")
        self.look_back_entry = self._make(Tally, "look_back_entry_seconds")
        self.late_verdicts = self._make(Counter, "late_verdicts_total")
        self.scan_deaths = self._make(Counter, "scan_deaths_total")
        self.sandbox_level = self._make(Gauge, "sandbox_level")
        self.scan_cache = self._make(Count, "scan_cache_total")
        self._make(Gauge, "build_info").labels(version, platform.python_version()).set(1)
        # Processor time, memory and open files of this process, under the names that all exporters use.
        ProcessCollector(registry=self.registry)
        if self._left:
            raise AssertionError(f"rows without a metric: {sorted(self._left)}")

    def _make(self, factory: type[_Metric], name: str) -> _Metric:
        row = self._left.pop(name)
        make: Any = factory
        more = {"buckets": row.edges} if row.edges else {}
        metric: _Metric = make(PREFIX + name, row.help, tuple(row.labels), registry=self.registry, **more)
        for values in row.starts():
            metric.labels(*values)
        return metric

    def count_taken(self, topic: str) -> None:
        """Count one record taken from the stream."""
        if topic not in self._taken:
            self._taken[topic] = self.records_taken.labels(topic)
        self._taken[topic].inc()

    def count_judged(
        self,
        *,
        media: str | None,
        outcome: str,
        action: str,
        reason: str | None,
        hits: Iterable[tuple[str, str, int, str]],
        dead_letter: str | None,
        seconds: float,
    ) -> None:
        """Count one verdict that was handed over. `hits` are its (kind, band, distance, state).

        `seconds` are from the record's timestamp to now.
        """
        media = media or "unknown"
        self._judged[media, outcome].inc()
        self._ends[media].observe(max(0.0, seconds))
        near = []
        for kind, band, distance, state in hits:
            self.hits.labels(state).inc()
            if state == "active":
                near.append((kind, band, distance))
        if outcome == "match":
            best = min((band for _, band, _ in near), key=BANDS.index, default="c")
            self.matches.labels(best, action).inc()
            for kind in ("pdq", "tlsh"):
                if distances := [distance for hit, _, distance in near if hit == kind]:
                    self.match_distance.labels(kind).observe(min(distances))
        elif outcome == "unscanned" and reason in UPLOAD_REASONS:
            self.unscanned.labels(reason, REASONS[reason].klass).inc()
        if dead_letter is not None and dead_letter in DEAD_LETTER_REASONS:
            self.dead_letters.labels(dead_letter).inc()

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Note how long each stage took. Unknown names are left out: some come from a scan process."""
        for stage, value in seconds.items():
            series = self._stages.get(stage)
            if series is not None and 0 <= value < 3600:
                series.counts[bisect_left(STAGE_SECONDS, value)] += 1  # `observe`, without ten more calls an upload
                series.total += value

    def forget_partition(self, topic: str, partition: int) -> None:
        """Take back the gauges of a partition that is assigned here no longer."""
        for gauge in (self.lag, self.oldest_unfinished):
            with contextlib.suppress(KeyError):
                gauge.remove(topic, str(partition))


def table() -> Iterator[tuple[str, str, str, str]]:
    """Every metric as (full name, kind, labels, help), for generated documents."""
    for row in TABLE:
        yield PREFIX + row.name, row.kind, ", ".join(row.labels), row.help
