"""Laws of the metrics: closed labels, zeros from the start, one table."""

from __future__ import annotations

import subprocess
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hashweir import metrics, model, ports
from hashweir.errors import REASONS
from hashweir.metrics import PREFIX, TABLE, Metrics, table
from hashweir.shards import trust


def samples(made: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = generate_latest(made.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_words_are_those_of_the_model() -> None:
    """`metrics` stands below `model`, so its lists are copies: none may drift."""
    assert get_args(model.Kind) == metrics.KINDS
    assert get_args(model.Band) == metrics.BANDS
    assert get_args(ports.Standing) == metrics.STANDINGS
    assert get_args(model.Outcome) == metrics.OUTCOMES
    assert metrics.ACTIONS == model.ACTIONS
    assert get_args(model.SetState) == metrics.SET_STATES
    assert get_args(model.HitState) == metrics.HIT_STATES
    assert get_args(trust.Doubt) == metrics.DOUBTS
    assert (*get_args(model.MediaClass), "unknown") == metrics.MEDIA


def test_the_table_is_what_is_exported() -> None:
    """Each row is on the page under its name, kind and help, and nothing else is."""
    page = generate_latest(Metrics().registry).decode()
    exported = {
        line.split()[2]: line.split()[3]
        for line in page.splitlines()
        if line.startswith("# TYPE") and not line.split()[2].startswith("process_")
    }
    assert exported == {name: kind for name, kind, _, _ in table()}
    assert all(name.startswith(PREFIX) and text.endswith(".") for name, _, _, text in table())


def test_every_closed_label_set_starts_at_zero() -> None:
    """A rate over what has not happened yet is 0, not missing."""
    exported = samples(Metrics())
    for row in TABLE:
        suffix = "_count" if row.kind == "histogram" else ""
        open_labels = any(values is None for values in row.labels.values())
        for values in row.starts():
            labels = tuple(sorted(zip(row.labels, values, strict=True)))
            assert exported[PREFIX + row.name + suffix, labels] == 0
        assert open_labels or not row.labels or list(row.starts())


def test_label_names_are_words_of_the_closed_list() -> None:
    """Nothing that names an upload, an account, a hash or an entry is ever a label."""
    known = {
        "media",
        "outcome",
        "stage",
        "band",
        "action",
        "kind",
        "reason",
        "class",
        "dependency",
        "why",
        "fence",
        "standing",
        "result",
        "state",
        "doubt",
    }
    bounded = {"topic", "partition", "shard", "version", "python"}
    for row in TABLE:
        for label, values in row.labels.items():
            assert label in (known if values is not None else bounded)


def test_several_can_live_in_one_process() -> None:
    """Each has its own registry, so counts never mix."""
    one, two = Metrics(), Metrics()
    one.rebalances.inc()
    assert samples(one)[PREFIX + "rebalances_total", ()] == 1
    assert samples(two)[PREFIX + "rebalances_total", ()] == 0


def test_a_match_is_counted_once_by_its_best_band() -> None:
    """Sums over labels mean something: matches_total adds up to the matches."""
    made = Metrics()
    hits = [
        ("pdq", "b", 12, "active"),
        ("pdq", "a", 9, "active"),
        ("tlsh", "c", 40, "active"),
        ("pdq", "a", 0, "shadow"),
    ]
    made.count_judged(
        media="image", outcome="match", action="hold", reason=None, hits=hits, dead_letter=None, seconds=0.2
    )
    seen = samples(made)
    assert seen[PREFIX + "matches_total", (("action", "hold"), ("band", "a"))] == 1
    assert sum(value for (name, _), value in seen.items() if name == PREFIX + "matches_total") == 1
    assert seen[PREFIX + "match_distance_bucket", (("kind", "pdq"), ("le", "10.0"))] == 1
    assert seen[PREFIX + "match_distance_bucket", (("kind", "pdq"), ("le", "4.0"))] == 0
    assert seen[PREFIX + "match_distance_count", (("kind", "tlsh"),)] == 1
    assert seen[PREFIX + "hits_total", (("state", "shadow"),)] == 1
    assert seen[PREFIX + "end_to_end_seconds_bucket", (("le", "0.25"), ("media", "image"))] == 1


@pytest.mark.parametrize("reason", metrics.UPLOAD_REASONS)
def test_an_unscanned_upload_is_counted_with_the_class_of_its_reason(reason: str) -> None:
    """Every reason that an upload can end with has its counter."""
    made = Metrics()
    letter = reason if REASONS[reason].dead_letter else None
    made.count_judged(
        media=None, outcome="unscanned", action="none", reason=reason, hits=(), dead_letter=letter, seconds=-1
    )
    seen = samples(made)
    labels = (("class", REASONS[reason].klass), ("reason", reason))
    assert seen[PREFIX + "unscanned_total", labels] == 1
    assert seen[PREFIX + "uploads_total", (("media", "unknown"), ("outcome", "unscanned"))] == 1
    assert sum(v for (name, _), v in seen.items() if name == PREFIX + "dead_letters_total") == (letter is not None)


def test_what_a_scan_process_claims_makes_no_new_series() -> None:
    """Stage names come out of the sandbox: an unknown one, or a nonsense time, is left out."""
    made = Metrics()
    before = set(samples(made))
    made.observe_stages({"hash": 0.01, "x" * 1000: 1.0, "decode": -1.0, "lookup": float("nan")})
    assert set(samples(made)) == before
    assert samples(made)[PREFIX + "stage_duration_seconds_count", (("stage", "hash"),)] == 1
    assert samples(made)[PREFIX + "stage_duration_seconds_count", (("stage", "lookup"),)] == 0


def test_a_partition_that_went_away_leaves_no_lag() -> None:
    """Its last value would be read as a partition that hangs."""
    made = Metrics()
    made.lag.labels("uploads", "3").set(7)
    made.oldest_unfinished.labels("uploads", "3").set(7)
    made.forget_partition("uploads", 3)
    made.forget_partition("uploads", 4)
    assert not [key for key in samples(made) if ("partition", "3") in key[1]]


def test_every_objective_lies_on_an_edge() -> None:
    """The share within a target is then counted and not interpolated."""
    edges = {row.name: row.edges for row in TABLE}
    assert 0.25 in edges["end_to_end_seconds"]
    assert 0.25 in edges["change_to_live_seconds"]
    assert 1.0 in edges["change_to_live_seconds"]
    assert 0.01 in edges["stage_duration_seconds"]
    assert 31.0 in edges["match_distance"]


@pytest.mark.slow  # not that it takes long, but promtool is no part of the fast gate
def test_promtool_finds_nothing_to_say() -> None:
    """Names, units and help follow Prometheus' own rules."""
    page = generate_latest(Metrics().registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
