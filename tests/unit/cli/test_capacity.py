"""`hashweir capacity`: a model that is near what was measured, grows with the load, and refuses nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hashweir.cli import USAGE, main
from hashweir.cli.capacity_model import COSTS, Needs, needs

mixes = st.dictionaries(st.sampled_from(sorted(COSTS)), st.floats(0.1, 10), min_size=1)
rates = st.floats(0.1, 1e5)
entries = st.integers(0, 10_000_000)


@example(3014.0, 0, {"clip": 0.109375, "post": 1.0}, 1.125)
@given(rates, entries, mixes, st.floats(1.1, 10))
def test_more_uploads_never_need_less(rate: float, known: int, mix: dict[str, float], times: float) -> None:
    """Nothing that is needed shrinks, but for what rounding up at each worker had added."""
    one, other = needs(rate, known, mix), needs(rate * times, known, mix)
    assert other.cores >= one.cores
    assert other.workers * other.scan_processes_per_worker > one.workers * (one.scan_processes_per_worker - 1)
    assert other.workers >= one.workers
    assert other.partitions >= one.partitions >= one.workers


@given(rates, entries, mixes)
def test_what_is_planned_carries_the_load(rate: float, known: int, mix: dict[str, float]) -> None:
    """No worker's own process is busier than planned, nor any scan process."""
    found = needs(rate, known, mix)
    assert found.worker_cores / found.workers <= found.utilisation + 0.001
    assert found.scan_cores <= found.utilisation * found.workers * found.scan_processes_per_worker + 0.001
    assert found.cores * found.utilisation == pytest.approx(found.worker_cores + found.scan_cores, abs=0.01)


@given(rates, mixes, st.floats(0.5, 20))
def test_shares_are_relative(rate: float, mix: dict[str, float], times: float) -> None:
    """A mix in per cent says the same as one in shares of 1."""
    larger = {name: share * times for name, share in mix.items()}
    assert needs(rate, 10, larger).cores == pytest.approx(needs(rate, 10, mix).cores, abs=0.02)


@pytest.mark.parametrize(
    ("per_second", "mix", "cores"),
    [
        (200.1, {"photo": 0.6, "post": 0.3, "pdf": 0.07, "clip": 0.03}, 1.51),
        (222.3, {"photo": 1}, 1.62),
    ],
    ids=["mixed", "photos"],
)
def test_the_model_is_near_runs_that_its_constants_do_not_come_from(
    per_second: float, mix: dict[str, float], cores: float
) -> None:
    """Cores of hashweir's own processes in two load tests of decision 0016."""
    found = needs(per_second, 10_000, mix)
    assert found.worker_cores + found.scan_cores == pytest.approx(cores, rel=0.25)


def test_json_says_what_the_figures_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan can be checked: the constants stand beside the result."""
    line = ["--uploads-per-second", "500", "--entries", "1000000", "--mix", "photo=0.6,post=0.4", "--json"]
    assert main(["capacity", *line]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == set(Needs.__struct_fields__)
    assert said["constants"]["entry_bytes"] > 0
    assert said["mix"] == {"photo": 0.6, "post": 0.4}


@pytest.mark.parametrize("mix", ["photo", "photo=", "photo=x", "hologram=1", "photo=0", "photo=nan", "photo=-1,post=2"])
def test_a_wrong_mix_is_refused(mix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a sentence that says what is wrong."""
    assert main(["capacity", "--uploads-per-second", "5", "--entries", "1", f"--mix={mix}"]) == USAGE
    assert "hashweir: " in capsys.readouterr().err


def test_more_entries_than_a_worker_can_compare_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The key that helps is named."""
    assert main(["capacity", "--uploads-per-second", "5", "--entries", "90000000"]) == USAGE
    assert "index.scrub_round_seconds" in capsys.readouterr().err
