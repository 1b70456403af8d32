"""Makes `hashweir.json`, the Grafana dashboard, of the tables below: `python deploy/grafana/generate.py`.

Plain dictionaries in Grafana's own JSON model; a test holds file and tables in step, and runs every query on a live
Prometheus that scrapes a running worker. SLO panels read the recorded series of `deploy/prometheus/recording.yml`.
Long because it is a table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("hashweir.json")
WIDTH = 24
HEIGHT = 8
RATE = "$__rate_interval"
JOB = 'job="$job"'
MINE = 'job="$job",instance=~"$instance"'

Query = tuple[str, str]
"""PromQL and a legend."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's name of it; `edges` are (from, colour) thresholds of a `stat`."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "heatmap"] = "timeseries"
    width: int = 8
    help: str = ""
    edges: tuple[tuple[float | None, str], ...] = ()
    stacked: bool = False


def rate(metric: str, by: str = "", more: str = "", labels: str = MINE) -> str:
    """Per second, summed; by nothing, or by these labels."""
    inside = f"{labels},{more}" if more else labels
    return f"sum{f' by ({by})' if by else ''} (rate(hashweir_{metric}{{{inside}}}[{RATE}]))"


def quantile(share: float, metric: str, by: str = "", more: str = "") -> str:
    """A quantile of a histogram; by nothing but the bucket, or by these labels too."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', 'le' + (f', {by}' if by else ''), more)})"


def age(metric: str) -> str:
    """Seconds between the time in a gauge and its scrape (not now: that would add the scrape's age); 0 is no time."""
    return f"timestamp(hashweir_{metric}{{{MINE}}}) - (hashweir_{metric}{{{MINE}}} > 0)"


def gauge(metric: str, by: str, how: str = "sum", more: str = "") -> str:
    """A gauge over all workers."""
    return f"{how} by ({by}) (hashweir_{metric}{{{MINE}{',' + more if more else ''}}})"


GOOD = ((None, "red"), (0.99, "orange"), (0.999, "green"))
BUDGET = ((None, "red"), (0.0, "orange"), (0.5, "green"))
BURN = "How many times faster than the objective allows: at 1 the month's budget lasts exactly a month."

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Objectives",
        (
            Panel(
                "Verdicts without a fault of ours, 3 days",
                ((f"1 - job:hashweir_verdicts_failed:ratio_rate3d{{{JOB}}}", ""),),
                "percentunit", "stat", 4, "Objective: 99.9 %.", GOOD,
            ),
            Panel(
                "Budget of failed verdicts left, 3 days",
                ((f"1 - job:hashweir_verdicts_failed:ratio_rate3d{{{JOB}}} / 0.001", ""),),
                "percentunit", "stat", 4, "Below 0 the objective was missed.", BUDGET,
            ),
            Panel(
                "Images and texts within 0.25 s, 3 days",
                ((f"1 - job:hashweir_verdicts_late:ratio_rate3d{{{JOB}}}", ""),),
                "percentunit", "stat", 4, "Objective: 99 %.", ((None, "red"), (0.98, "orange"), (0.99, "green")),
            ),
            Panel(
                "Budget of late verdicts left, 3 days",
                ((f"1 - job:hashweir_verdicts_late:ratio_rate3d{{{JOB}}} / 0.01", ""),),
                "percentunit", "stat", 4, "Below 0 the objective was missed.", BUDGET,
            ),
            Panel(
                "Canaries found, 10 minutes",
                (
                    (
                        (f'sum(increase(hashweir_canary_uploads_total{{{JOB},result="found"}}[10m]))'
                        f" / sum(increase(hashweir_canary_uploads_total{{{JOB}}}[10m]))"),
                        "",
                    ),
                ),
                "percentunit", "stat", 4, "Uploads of our own, from Kafka to verdict.", GOOD,
            ),
            Panel(
                "Workers",
                ((f"count by (version) (hashweir_build_info{{{JOB}}})", "{{version}}"),),
                "short", "stat", 4,
            ),
            Panel(
                "Burn rate of failed verdicts",
                tuple(
                    (f"job:hashweir_verdicts_failed:ratio_rate{window}{{{JOB}}} / 0.001", window)
                    for window in ("5m", "30m", "1h", "6h")
                ),
                width=12, help=BURN,
            ),
            Panel(
                "Burn rate of late verdicts",
                tuple(
                    (f"job:hashweir_verdicts_late:ratio_rate{window}{{{JOB}}} / 0.01", window)
                    for window in ("5m", "30m", "1h", "6h")
                ),
                width=12, help=BURN,
            ),
        ),
    ),
    (
        "Traffic and verdicts",
        (
            Panel("Verdicts by outcome", ((rate("uploads_total", "outcome"), "{{outcome}}"),), "ops", stacked=True),
            Panel("Verdicts by media", ((rate("uploads_total", "media"), "{{media}}"),), "ops", stacked=True),
            Panel(
                "Taken and judged",
                ((rate("records_taken_total"), "taken"), (rate("uploads_total"), "judged")),
                "ops", help="Canaries are among those taken.",
            ),
            Panel("Matches by band", ((rate("matches_total", "band"), "{{band}}"),), "ops", width=12),
            Panel("Matches by action", ((rate("matches_total", "action"), "{{action}}"),), "ops", width=12),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "From record to verdict",
                tuple((quantile(share, "end_to_end_seconds"), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
                "s",
            ),
            Panel("99th percentile by media", ((quantile(0.99, "end_to_end_seconds", "media"), "{{media}}"),), "s"),
            Panel(
                "From record to verdict",
                ((rate("end_to_end_seconds_bucket", "le"), "{{le}}"),),
                "s", "heatmap",
            ),
            Panel(
                "Stages, 99th percentile", ((quantile(0.99, "stage_duration_seconds", "stage"), "{{stage}}"),), "s"
            ),
            Panel(
                "Stages, seconds per second",
                ((rate("stage_duration_seconds_sum", "stage"), "{{stage}}"),),
                stacked=True, help="How many uploads are in each stage on average.",
            ),
            Panel("Canaries, 99th percentile", ((quantile(0.99, "canary_seconds"), "p99"),), "s"),
        ),
    ),
    (
        "Lag and time to drain",
        (
            Panel(
                "Lag in seconds",
                ((f"partition:hashweir_lag:seconds{{{JOB}}}", "{{topic}}-{{partition}}"),),
                "s", help="Age of the oldest record that is not done.",
            ),
            Panel("Lag in records", ((gauge("lag_records", "topic, partition"), "{{topic}}-{{partition}}"),)),
            Panel(
                "Time to drain",
                ((f"job:hashweir_drain:seconds{{{JOB}}}", "at this pace"),),
                "s", help="Nothing is shown while the lag does not shrink.",
            ),
            Panel(
                "Share of the retention used",
                (
                    (
                        (f"max by (topic) (partition:hashweir_lag:seconds{{{JOB}}})"
                        f" / on (topic) (min by (topic) (hashweir_retention_seconds{{{JOB}}}) > 0)"),
                        "{{topic}}",
                    ),
                ),
                "percentunit", width=6, help="At 1, uploads are deleted before they were judged.",
            ),
            Panel(
                "Oldest upload in flight",
                (
                    (
                        (f"({age('oldest_in_flight_timestamp_seconds')})"
                        f" or 0 * hashweir_oldest_in_flight_timestamp_seconds{{{MINE}}}"),
                        "{{instance}}",
                    ),
                ),
                "s", width=6,
            ),
            Panel("Partitions by worker", ((gauge("partitions_assigned", "instance"), "{{instance}}"),), width=6),
            Panel(
                "Rebalances and failed commits",
                ((rate("rebalances_total"), "rebalances"), (rate("commit_failures_total"), "failed commits")),
                "ops", width=6,
            ),
        ),
    ),
    (
        "Index",
        (
            Panel(
                "Since each shard was verified",
                (
                    (
                        f"max by (shard) ({age('shard_verified_timestamp_seconds')})",
                        "shard {{shard}}",
                    ),
                ),
                "s", help="The slowest worker counts.",
            ),
            Panel(
                "Changes not yet applied, by shard",
                (
                    (
                        (f"max by (shard) (hashweir_head_sequence{{{MINE}}}"
                        f" - on (job, instance, shard) hashweir_applied_sequence{{{MINE}}})"),
                        "shard {{shard}}",
                    ),
                ),
            ),
            Panel("Slots by shard", ((gauge("shard_slots", "shard", "max"), "shard {{shard}}"),)),
            Panel("Standing, workers", ((gauge("known_standing", "standing"), "{{standing}}"),), stacked=True),
            Panel(
                "Since all was verified",
                (
                    (age("last_verified_timestamp_seconds"), "{{instance}}"),
                    (age("copy_saved_timestamp_seconds"), "saved {{instance}}"),
                ),
                "s",
            ),
            Panel("Workers that follow each shard", ((gauge("shard_followed", "shard"), "shard {{shard}}"),)),
            Panel("Doubtful shards", ((gauge("shards_doubtful", "doubt"), "{{doubt}}"),), stacked=True),
            Panel(
                "From a change to its effect",
                tuple((quantile(share, "change_to_live_seconds"), f"p{share * 100:g}") for share in (0.5, 0.99)),
                "s",
            ),
            Panel("Entries by kind", ((gauge("index_entries", "kind", "max"), "{{kind}}"),)),
            Panel("Alarms of the store", ((gauge("store_alarms", "reason", "max"), "{{reason}}"),)),
        ),
    ),
    (
        "Sets and quality",
        (
            Panel("Sets by state", ((gauge("sets", "state", "max"), "{{state}}"),), width=6),
            Panel(
                "Hits by state",
                ((rate("hits_total", "state"), "{{state}}"),),
                "ops", width=6, help="Shadow: what a set would do if it were active.",
            ),
            Panel(
                "Distance of matches",
                ((rate("match_distance_bucket", "le", 'kind="pdq"'), "{{le}}"),),
                "short", "heatmap", 6, "Of PDQ; 31 is the usual radius.",
            ),
            Panel(
                "Scans that an earlier one answered",
                ((rate("scan_cache_total", more='result="hit"') + " / " + rate("scan_cache_total"), "hits"),),
                "percentunit", width=6,
            ),
            Panel(
                "Not checked, by no fault of ours",
                ((rate("unscanned_total", "reason", 'class="input"') + " > 0", "{{reason}}"),),
                "ops", width=24, stacked=True,
            ),
        ),
    ),
    (
        "Look-back and the long lane",
        (
            Panel("Uploads decided again", ((rate("late_verdicts_total", "result"), "{{result}}"),), "ops"),
            Panel(
                "New entries looked back for",
                (
                    (rate("look_back_entries_total"), "per second"),
                    (rate("look_back_sweeps_total"), "sweeps per second"),
                    (f"sum(hashweir_look_back_waiting_entries{{{MINE}}})", "waiting"),
                ),
            ),
            Panel("Search for one entry, 99th percentile", ((quantile(0.99, "look_back_entry_seconds"), "p99"),), "s"),
            Panel("Uploads remembered", ((gauge("look_back_uploads", "instance"), "{{instance}}"),), width=6),
            Panel("Their memory", ((gauge("look_back_bytes", "instance"), "{{instance}}"),), "bytes", width=6),
            Panel(
                "How far back, and since they were saved",
                (
                    (age("look_back_oldest_timestamp_seconds"), "oldest {{instance}}"),
                    (age("look_back_saved_timestamp_seconds"), "saved {{instance}}"),
                ),
                "s",
                width=6,
            ),
            Panel("Handed on to the long topic", ((rate("relayed_total"), "uploads"),), "ops", width=6),
        ),
    ),
    (
        "Failures",
        (
            Panel(
                "Not checked by a fault of ours",
                ((rate("unscanned_total", "reason", 'class="fault"'), "{{reason}}"),),
                "ops", stacked=True,
            ),
            Panel("Dead letters", ((rate("dead_letters_total", "reason"), "{{reason}}"),), "ops", stacked=True),
            Panel("Ends of scan processes", ((rate("scan_deaths_total", "why"), "{{why}}"),), "ops", stacked=True),
            Panel(
                "Attempts made again",
                ((rate("retries_total", "dependency"), "{{dependency}}"), (rate("poll_failures_total"), "poll")),
                "ops",
            ),
            Panel(
                "Failures of the store, and to save",
                (
                    (rate("store_failures_total", "reason"), "{{reason}}"),
                    (rate("save_failures_total", "reason"), "{{reason}}"),
                ),
                "ops",
            ),
            Panel(
                "Records lost",
                ((f"sum by (topic, partition) (hashweir_lost_records_total{{{JOB}}})", "{{topic}}-{{partition}}"),),
            ),
            Panel("Canaries", ((rate("canary_uploads_total", "result"), "{{result}}"),), "ops", width=24, stacked=True),
        ),
    ),
    (
        "Saturation",
        (
            Panel(
                "Scan processes",
                (
                    (f"sum(hashweir_scan_processes{{{MINE}}})", "ready"),
                    (f"sum(hashweir_scan_processes_busy{{{MINE}}})", "busy"),
                    (f"sum(hashweir_scan_waiting_items{{{MINE}}})", "uploads waiting"),
                ),
            ),
            Panel(
                "In flight",
                (
                    (f"sum(hashweir_in_flight_items{{{MINE}}})", "uploads"),
                    (f"sum(hashweir_in_flight_bytes{{{MINE}}}) / 1048576", "MiB"),
                ),
            ),
            Panel("Paused partitions", ((gauge("paused_partitions", "why"), "{{why}}"),), stacked=True),
            Panel(
                "Memory",
                (
                    (f"sum(process_resident_memory_bytes{{{MINE}}})", "workers"),
                    (f"sum(hashweir_scan_resident_bytes{{{MINE}}})", "scan processes"),
                ),
                "bytes", stacked=True,
            ),
            Panel(
                "Processor time",
                (
                    (f"sum(rate(process_cpu_seconds_total{{{MINE}}}[{RATE}]))", "workers"),
                    (rate("stage_duration_seconds_sum", more='stage=~"decode|hash"'), "decoding and hashing"),
                ),
                stacked=True,
            ),
            Panel("Event loop, 99th percentile of being late", ((quantile(0.99, "loop_lag_seconds"), "p99"),), "s"),
            Panel(
                "Fences of scan processes",
                ((gauge("sandbox_level", "fence", "min"), "{{fence}}"),),
                width=12, help="1 where every scan process of every worker stands behind this fence.",
            ),
            Panel(
                "Open files", ((f"sum by (instance) (process_open_fds{{{MINE}}})", "{{instance}}"),), width=12
            ),
        ),
    ),
)  # fmt: skip

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
VERSIONS = f"count by (version) (hashweir_build_info{{{JOB}}}) unless count by (version) (hashweir_build_info{{{JOB}}} offset 5m)"  # noqa: E501


def dashboard() -> dict[str, Any]:
    """The whole dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], **_place(0, top, WIDTH, 1)})
        left, top = 0, top + 1
        for one in row:
            if left + one.width > WIDTH:
                left, top = 0, top + HEIGHT
            panels.append({**_panel(one), **_place(left, top, one.width, HEIGHT)})
            left += one.width
        top += HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "hashweir",
        "title": "hashweir",
        "tags": ["hashweir"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {
            "list": [
                {
                    "name": "new version",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "blue",
                    "expr": VERSIONS,
                    "titleFormat": "version {{version}}",
                }
            ]
        },
        "templating": {"list": _variables()},
        "links": [],
        "panels": panels,
    }


def queries() -> list[str]:
    """Every PromQL expression of the dashboard, its annotation among them."""
    return [query for _, row in ROWS for panel in row for query, _ in panel.queries] + [VERSIONS]


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def _place(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": w, "h": h}}


def _panel(one: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": one.unit}
    options: dict[str, Any] = {}
    if one.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {"fillOpacity": 20 if one.stacked else 0, "showPoints": "never"}
        if one.stacked:
            defaults["custom"]["stacking"] = {"mode": "normal"}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif one.kind == "stat":
        steps = one.edges or ((None, "blue"),)
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"value": at, "color": c} for at, c in steps]}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
    else:
        options = {"calculate": False, "yAxis": {"unit": one.unit}, "color": {"scheme": "Oranges", "mode": "scheme"}}
    return {
        "type": one.kind,
        "title": one.title,
        "description": one.help,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "format": "heatmap" if one.kind == "heatmap" else "time_series",
            }
            for number, (expression, legend) in enumerate(one.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    def labels(name: str, query: str, more: dict[str, Any]) -> dict[str, Any]:
        base = {"name": name, "type": "query", "datasource": DATASOURCE, "query": query, "definition": query}
        return {**base, "refresh": 2, "sort": 1, **more}

    whole = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"},
        labels("job", "label_values(hashweir_build_info, job)", {}),
        labels("instance", f"label_values(hashweir_build_info{{{JOB}}}, instance)", whole),
    ]


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
