"""Rules, dashboards and runbook name what exists, and each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.grafana import generate
from hashweir.logs import EVENTS
from hashweir.metrics import PREFIX, TABLE
from tests.promql import SERIES, complaints, names

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")
RECORDING = (DEPLOY / "prometheus/recording.yml").read_text(encoding="utf-8")
CASES = (DEPLOY / "prometheus/tests/alerts.yml").read_text(encoding="utf-8")
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")

RECORDED = set(re.findall(r"- record: (\S+)", RECORDING))
NAMED = re.findall(r"- alert: (\w+)", ALERTS)
# The least indented line after `expr:` that is a key again ends it.
EXPRESSIONS = [
    " ".join(one.split())
    for one in re.findall(
        r"\n +expr: (?:>-\n)?(.*?)(?=\n +(?:for|labels|- record|- alert):|\n\n|\Z)", ALERTS + RECORDING, re.DOTALL
    )
]


@pytest.mark.parametrize("alert", NAMED)
def test_an_alert_can_be_followed_at_night(alert: str) -> None:
    """It has a severity, a sentence, and a section of the runbook that says what to do and what not to."""
    rule = ALERTS.split(f"- alert: {alert}\n")[1].split("- alert:")[0]
    assert re.search(r"labels: \{severity: (page|ticket)\}", rule)
    assert "summary:" in rule
    anchor = re.search(r"runbook_url: deploy/RUNBOOK\.md#(\w+)", rule)
    assert anchor
    assert anchor[1] == alert.lower()
    section = RUNBOOK.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    for part in ("Means", "Who is affected", "First look", "Do", "Don't"):
        assert f"**{part}**:" in section, part


@pytest.mark.parametrize("alert", NAMED)
def test_an_alert_has_a_case_where_it_fires_and_one_where_it_does_not(alert: str) -> None:
    assert f"{alert} fires:" in CASES
    assert f"{alert} is silent:" in CASES


def test_the_runbook_has_no_section_and_no_case_too_many() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == NAMED
    assert set(re.findall(r"(\w+) (?:fires|is silent):", CASES)) == set(NAMED)


def test_links_within_the_runbook_lead_somewhere() -> None:
    anchors = {alert.lower() for alert in NAMED}
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOK)) <= anchors


def test_the_runbook_names_what_exists() -> None:
    """Metrics and queries in it, and the log events."""
    quoted = re.findall(r"`([^`]+)`", RUNBOOK)
    assert [found for one in quoted for found in complaints(one, RECORDED)] == []
    prefixes = {event.split(".")[0] for event in EVENTS}
    events = {one for one in quoted if re.fullmatch(r"[a-z]+\.[a-z_]+", one) and one.split(".")[0] in prefixes}
    assert {one for one in events if one not in EVENTS and not _is_key(one)} == set()


def _is_key(word: str) -> bool:
    from hashweir.config import keys

    return word in {f"{key.section}.{key.name}" for key in keys()}


def test_rules_read_only_what_exists() -> None:
    """Metrics, their labels, values of closed lists, edges of histograms."""
    assert len(EXPRESSIONS) == len(NAMED) + len(RECORDED)
    assert [found for one in EXPRESSIONS for found in complaints(one, RECORDED)] == []


def test_the_dashboard_is_in_step() -> None:
    """After a change: `python deploy/grafana/generate.py`."""
    assert generate.FILE.read_text(encoding="utf-8") == generate.text()


@pytest.mark.parametrize("query", generate.queries())
def test_a_panel_reads_only_what_exists(query: str) -> None:
    assert complaints(query, RECORDED) == []


def test_every_metric_is_shown_or_watched() -> None:
    """One that nobody looks at is only cost."""
    used = {name for one in (*EXPRESSIONS, *generate.queries()) for name in names(one)}
    assert {PREFIX + row.name for row in TABLE} - {PREFIX + SERIES[name].name for name in used & SERIES.keys()} == set()


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in generate.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= generate.WIDTH
        taken |= cells


def test_the_check_itself_finds_what_is_wrong() -> None:
    """Or all of the above would hold of anything."""
    assert complaints("hashweir_uploads_total") == []
    assert complaints("rate(hashweir_upload_total[5m])") == ["no metric hashweir_upload_total"]
    assert complaints('hashweir_uploads_total{kind="pdq"}') == ["hashweir_uploads_total has no label kind"]
    assert complaints('hashweir_uploads_total{media="film"}') == ["media of hashweir_uploads_total is never film"]
    assert complaints('hashweir_end_to_end_seconds_bucket{le="0.3"}') == [
        "hashweir_end_to_end_seconds_bucket has no edge 0.3"
    ]
    assert complaints("job:hashweir_nothing:rate5m") == ["no metric job:hashweir_nothing:rate5m"]
