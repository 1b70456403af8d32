"""A run's figures, as JSON and as Markdown. Percentiles are exact: every latency is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtests.drive import Sent
from loadtests.missed import MOST, missed, missed_rows
from loadtests.run import Ran
from loadtests.watch import Sample

QUANTILES = (50, 90, 99, 99.9)
FAULTS = ("scan_died", "scan_deadline", "scan_bad_reply", "internal_error")
Figures = dict[str, Any]


def figures(ran: Ran) -> Figures:
    """Everything that a report says, as plain values. Seconds, milliseconds and MiB, as the names say."""
    assert ran.driver is not None
    sent = ran.driver.sent
    began_ms = ran.spans[0][0].at_s * 1000
    phases = [_phase(ran, number, sent) for number in range(len(ran.spans))]
    reasons = Counter(one.reason or "unknown" for one in sent if one.outcome == "unscanned")
    return {
        "scenario": ran.scenario.name,
        "title": ran.scenario.title,
        "seed": ran.scenario.seed,
        "mix": ran.scenario.mix,
        "also": ran.scenario.also,
        "machine": ran.machine,
        "workers": ran.workers,
        "scan_processes": ran.scan_processes,
        "bare": ran.bare,
        "sustained_per_second": ran.sustained,
        "sustained_to_bare": ran.sustained / ran.bare["per_second"],
        "scaling": _scaling(ran),
        "event": ran.event,
        "uploads": len(sent),
        "mean_kb": float(np.mean([one.size for one in sent])) / 1000,
        "lost": sum(one.verdict_ms is None for one in sent),
        "refused": sum(one.refused for one in sent),
        "planted": sum(one.piece.planted for one in sent),
        "wrong": sum(one.missed for one in sent),
        "missed": [missed(number, one) for number, one in enumerate(sent) if one.missed][:MOST],
        "repeats": sum(max(0, one.copies - 1) for one in sent),
        "strange": ran.driver.strange,
        "unscanned": dict(reasons),
        "unscanned_by_fault": sum(count for reason, count in reasons.items() if reason in FAULTS),
        "driver_late_p99_ms": float(np.percentile([one.late_ms for one in sent], 99)),
        "cpu": _cpu(ran, sent),
        "phases": phases,
        "series": _series(sent, ran.samples, began_ms),
    }


def _phase(ran: Ran, number: int, sent: Sequence[Sent]) -> Figures:
    own = [one for one in sent if one.phase == number]
    taken = np.array([one.verdict_ms - one.due_ms for one in own if one.verdict_ms is not None])
    (first, last), plan = ran.spans[number], ran.scenario.phases[number]
    span_s = last.at_s - first.at_s
    due = np.array(sorted(one.due_ms for one in sent))
    done = np.array(sorted(one.verdict_ms for one in sent if one.verdict_ms is not None))
    at = np.arange(first.at_s, last.at_s + ran.drained_s[number], 0.25) * 1000
    backlog = np.searchsorted(due, at) - np.searchsorted(done, at)
    # As many as come in a quarter of a second are always under way.
    behind = backlog > max(3.0, ran.rates[number] / 4)
    caught_up = 0.0 if not behind.any() else float(at[behind][-1] / 1000 - first.at_s)
    in_time = np.searchsorted(done, last.at_s * 1000) - np.searchsorted(done, first.at_s * 1000)
    memory = [one.memory for one in ran.samples if first.at_s <= one.at_s <= last.at_s]
    return {
        "name": plan.name,
        "seconds": span_s,
        "uploads": len(own),
        "offered_per_second": ran.rates[number],
        "verdicts_per_second": float(in_time / span_s),
        "latency_ms": {str(q): float(np.percentile(taken, q)) for q in QUANTILES} | {"max": float(taken.max())}
        if len(taken)
        else {},
        "most_backlog": int(backlog.max()),
        "behind_until_s": caught_up,
        "drained_s": ran.drained_s[number],
        "worker_mib": max(one["worker"] for one in memory) / 2**20,
        "scan_mib": max(one["scan"] for one in memory) / 2**20,
        "cores": {role: (last.cpu_s[role] - first.cpu_s[role]) / span_s for role in last.cpu_s},
    }


def _scaling(ran: Ran) -> list[Figures]:
    """Of each saturated phase with a number of scan processes of its own: what it reached, and as many bare ones."""
    found = []
    for number, per_second in ran.sustained_by_phase.items():
        if count := ran.workers * ran.scenario.phases[number].scan_processes:
            bare = ran.bare_by_count[count]["per_second"]
            found.append({"scan_processes": count, "per_second": per_second, "bare_per_second": bare})
    return found


def _cpu(ran: Ran, sent: Sequence[Sent]) -> Figures:
    """Processor time while saturated (or in the whole run), and the share of it that is decoding and hashing."""
    saturated = [span for span, phase in zip(ran.spans, ran.scenario.phases, strict=True) if phase.saturates]
    first, last = saturated[0] if saturated else (ran.spans[0][0], ran.samples[-1])
    judged = sum(one.verdict_ms is not None and first.at_s * 1000 <= one.verdict_ms < last.at_s * 1000 for one in sent)
    spent = {role: last.cpu_s[role] - first.cpu_s[role] for role in last.cpu_s}
    own = spent["worker"] + spent["scan"]
    every = own + spent["kafka"] + spent["valkey"] + spent["driver"]
    return {
        "own_ms_per_upload": 1000 * own / judged,
        **{f"{role}_ms_per_upload": 1000 * spent[role] / judged for role in ("worker", "scan", "kafka", "driver")},
        "bare_ms_per_upload": ran.bare["cpu_ms"],
        "scan_share": spent["scan"] / own,
        "decode_hash_share_by_bare": ran.bare["cpu_ms"] * judged / 1000 / own,
        "decode_hash_share_by_stages": (last.decode_hash_s - first.decode_hash_s) / own,
        "bare_to_all": ran.bare["cpu_ms"] * judged / 1000 / every,
        "others_share_of_machine": max(0.0, 1 - every / spent["machine"]),
    }


def _series(sent: Sequence[Sent], samples: Sequence[Sample], began_ms: float) -> Figures:
    """By second since the beginning: offered, judged, p50 and p99 by due time, backlog, and memory by sample."""
    due = (np.array([one.due_ms for one in sent]) - began_ms) / 1000
    done = np.array([np.nan if one.verdict_ms is None else (one.verdict_ms - began_ms) / 1000 for one in sent])
    seconds = np.arange(int(max(due.max(), np.nanmax(done) if len(done) else 0)) + 1)
    offered, judged = (np.bincount(at[at >= 0].astype(int), minlength=len(seconds)) for at in (due, done))
    p50, p99 = [], []
    for second in seconds:
        taken = (done - due)[(due >= second) & (due < second + 1) & ~np.isnan(done)] * 1000
        p50.append(float(np.percentile(taken, 50)) if len(taken) else None)
        p99.append(float(np.percentile(taken, 99)) if len(taken) else None)
    return {
        "offered": offered.tolist(),
        "judged": judged.tolist(),
        "p50_ms": p50,
        "p99_ms": p99,
        "backlog": (np.cumsum(offered) - np.cumsum(judged)).tolist(),
        "memory_at_s": [round(one.at_s - began_ms / 1000, 1) for one in samples],
        "memory_mib": {
            role: [round(one.memory[role] / 2**20) for one in samples] for role in ("worker", "scan", "kafka", "valkey")
        },
    }


def markdown(said: Figures) -> str:
    """The report for people."""
    cpu, bare = said["cpu"], said["bare"]
    mix = ", ".join(f"{name} {share:g}" for name, share in said["mix"].items())
    per_upload = ", ".join(
        f"{role} {cpu[f'{role}_ms_per_upload']:.2f}" for role in ("worker", "scan", "kafka", "driver")
    )
    rows = {
        "lost (no verdict)": said["lost"],
        "not taken by the broker": said["refused"],
        "wrong (planted, not found)": f"{said['wrong']} of {said['planted']}",
        "unscanned by fault": said["unscanned_by_fault"],
        "unscanned": _counts(said["unscanned"]),
        "repeated verdicts": said["repeats"],
        "bare scan processes": f"{bare['processes']}: {bare['per_second']:.1f}/s, {bare['cpu_ms']:.2f} ms each",
        "sustained": f"{said['sustained_per_second']:.1f}/s, {said['sustained_to_bare']:.2f} of the bare processes",
        "processor time per upload": f"{per_upload} ms",
        "bare time per upload to all of that": f"{cpu['bare_to_all']:.2f}",
        "decode + hash in hashweir's processes, by the bare time": f"{cpu['decode_hash_share_by_bare']:.0%}",
        "the same by the stages' wall time": f"{cpu['decode_hash_share_by_stages']:.0%}",
        "machine's busy time that was not this run's": f"{cpu['others_share_of_machine']:.0%}",
        "driver behind its schedule, p99": f"{said['driver_late_p99_ms']:.1f} ms",
        "scaling, to the first of them": _scaled(said["scaling"]),
        "event": said["event"],
    }
    if not said["scaling"]:
        del rows["scaling, to the first of them"]
    if not said["sustained_per_second"]:
        del rows["sustained"]
    if not said["event"]:
        del rows["event"]
    columns = [
        "phase",
        "offered/s",
        "verdicts/s",
        "p50 ms",
        "p90",
        "p99",
        "p99.9",
        "max",
        "most backlog",
        "behind until s",
    ]
    columns += ["worker MiB", "scan MiB", "cores: own, kafka, driver, machine"]
    lines = [
        f"# {said['scenario']}: {said['title']}",
        "",
        f"Seed {said['seed']}; mix: {mix}; {said['uploads']:,} uploads of {said['mean_kb']:.1f} kB in the mean;",
        f"{said['workers']} worker(s) of {said['scan_processes']} scan process(es). All of it shares one machine:",
        "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in said["machine"].items()) + ".",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        *missed_rows(said["missed"]),
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(_row(one) for one in said["phases"]),
        "",
        "Latency: from when an upload was due to the broker's append of its verdict. Processor time: while saturated.",
        "Behind: more uploads without a verdict than come in 0.25 s; counted from the beginning of the phase.",
        "",
        *(f"![{name}]({name}.svg)" for name in ("throughput", "latency", "lag", "memory")),
    ]
    return "\n".join(lines) + "\n"


def _scaled(found: list[Figures]) -> str:
    """Rates as multiples of the first one's, and those of the bare processes."""
    return "; ".join(
        f"{one['scan_processes']} scan processes {one['per_second']:.1f}/s, "
        f"{one['per_second'] / found[0]['per_second']:.2f} times (bare {one['bare_per_second']:.1f}/s, "
        f"{one['bare_per_second'] / found[0]['bare_per_second']:.2f} times)"
        for one in found
    )


def compared(one: Figures, other: Figures) -> str:
    """Two reports side by side."""
    rows: list[tuple[str, float, float]] = [
        (name, one[name], other[name])
        for name in ("uploads", "lost", "wrong", "unscanned_by_fault", "sustained_per_second", "sustained_to_bare")
    ]
    rows += [(f"cpu: {name}", value, other["cpu"][name]) for name, value in one["cpu"].items()]
    theirs = {phase["name"]: phase for phase in other["phases"]}
    for phase in (phase for phase in one["phases"] if phase["name"] in theirs):
        name, that = phase["name"], theirs[phase["name"]]
        rows += [
            (f"{name}: {key}", phase[key], that[key])
            for key in ("offered_per_second", "verdicts_per_second", "most_backlog", "behind_until_s", "worker_mib")
        ]
        rows += [
            (f"{name}: p{q} ms".replace("pmax", "max"), ms, that["latency_ms"].get(q, float("nan")))
            for q, ms in phase["latency_ms"].items()
        ]
    lines = [
        f"# {one['scenario']} and {other['scenario']}",
        "",
        "| | first | second | second / first |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {a:,.2f} | {b:,.2f} | {f'{b / a:.2f}' if a else ''} |" for name, a, b in rows]
    return "\n".join(lines) + "\n"


def _row(one: Figures) -> str:
    taken = [f"{one['latency_ms'][q]:.0f}" if one["latency_ms"] else "" for q in (*map(str, QUANTILES), "max")]
    cores = one["cores"]
    used = (cores["worker"] + cores["scan"], cores["kafka"], cores["driver"], cores["machine"])
    cells = [one["name"], f"{one['offered_per_second']:.1f}", f"{one['verdicts_per_second']:.1f}", *taken]
    cells += [
        str(one["most_backlog"]),
        f"{one['behind_until_s']:.1f}",
        f"{one['worker_mib']:.0f}",
        f"{one['scan_mib']:.0f}",
    ]
    return f"| {' | '.join(cells)} | {', '.join(f'{value:.2f}' for value in used)} |"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items())) or "0"
