"""The load test's command works end to end, and a few seconds of small media lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import scenario
from loadtests.run import Ran

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_can_be_read(name: str) -> None:
    """A scenario's file says nothing unknown, and says of itself what it is."""
    assert scenario.load(name).title


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 't'\nmix = {photo = 1}\nspeed = 3", "unknown key speed"),
        ("title = 't'\nmix = {hologram = 1}\n[[phase]]\nname = 'a'\nseconds = 1\nper_second = 1", "no medium hologram"),
        ("title = 't'\nmix = {photo = 1}\n[[phase]]\nname = 'a'\nseconds = 1", "exactly one rate"),
        ("title = 't'\nmix = {photo = 1}\n[[phase]]\nname = 'a'\nseconds = 1\ntimes_sustained = 1", "saturates"),
    ],
)
def test_a_wrong_scenario_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """Whoever mistypes a key learns which one."""
    file = tmp_path / "odd.toml"
    file.write_text(text)
    with pytest.raises(scenario.ScenarioError, match=said):
        scenario.load(str(file))


@pytest.mark.broker
@pytest.mark.store
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_run_loses_nothing_and_finds_every_copy(tmp_path: Path) -> None:
    """All media, real servers: every upload has its verdict, every planted copy its match, the report its plots."""
    command = [sys.executable, "-m", "loadtests", "run", "smoke", "--bare-seconds", "1", "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["uploads"] > 40
    assert (said["lost"], said["wrong"], said["refused"], said["unscanned"], said["strange"]) == (0, 0, 0, {}, 0)
    assert said["planted"] > 10
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".md", ".svg"}
    again = subprocess.run(
        [sys.executable, "-m", "loadtests", "compare", str(tmp_path), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "| lost | 0.00 | 0.00 |" in again.stdout


def test_a_run_is_not_written_out_with_all_its_uploads() -> None:
    """`asyncio.run` has the `repr` of what it returns made: of a long run that would be gigabytes."""
    ran = Ran(scenario.load("steady"), machine={}, scan_processes=2, workers=1)
    assert "scenario" not in repr(ran)
