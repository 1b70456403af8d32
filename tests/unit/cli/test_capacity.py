"""`hashweir capacity`: a model that is near what was measured, grows with the load, and refuses nonsense."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hashweir.cli import USAGE, main
from hashweir.cli.capacity_model import COSTS, MIB, SCRUB_STORE_CORE_S, STORE_CORES, Needs, memory_mib, needs
from hashweir.config import Config, load

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
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
    assert found.store_cores <= STORE_CORES
    assert found.scrub_round_seconds >= Config().index.scrub_round_seconds
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


def said(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What the command answers in JSON."""
    assert main(["capacity", *options, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(("per_second", "entries"), [(4000, 10_000_000), (5, 90_000_000)])
def test_no_plan_asks_of_a_store_what_it_cannot_do(
    per_second: int, entries: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Redis runs commands on one core, so comparing gets more time; the key to set is named, and a round shorter by a
    second would not do."""
    line = ["--uploads-per-second", str(per_second), "--entries", str(entries)]
    found = said(capsys, *line)
    assert found["store_cores"] <= STORE_CORES
    assert main(["capacity", *line]) == 0
    assert f"index.scrub_round_seconds        {found['scrub_round_seconds']:g}: set it so" in capsys.readouterr().out
    fits, short = (
        Config.model_validate({"index": {"scrub_round_seconds": found["scrub_round_seconds"] - less}})
        for less in (0, 1)
    )
    assert needs(per_second, entries, {"photo": 1}, config=fits).scrub_round_seconds == found["scrub_round_seconds"]
    assert needs(per_second, entries, {"photo": 1}, config=short).scrub_round_seconds == found["scrub_round_seconds"]


def test_what_fits_into_the_configured_round_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is told to set what is set so already."""
    assert main(["capacity", "--uploads-per-second", "500", "--entries", "1000000"]) == 0
    assert "set it so" not in capsys.readouterr().out


def test_more_entries_than_any_round_holds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The key that would not help is named."""
    assert main(["capacity", "--uploads-per-second", "100000", "--entries", "900000000"]) == USAGE
    assert "index.scrub_round_seconds" in capsys.readouterr().err


@given(entries, st.integers(1, 8))
def test_memory_at_most_is_more_than_usual(known: int, processes: int) -> None:
    """And it holds every scan process at its fence."""
    config = Config()
    usual, limit = memory_mib(known, processes, config)
    assert limit > usual
    assert limit > processes * config.scan.memory_bytes / MIB


def test_memory_follows_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bounds are read where they are set; what an option says goes before that."""
    line = ["--uploads-per-second", "5", "--entries", "0"]
    before = said(capsys, *line)
    monkeypatch.setenv("HASHWEIR_SCAN__MEMORY_BYTES", str(1024 * MIB))
    after = said(capsys, *line)
    assert before["memory_limit_mib_per_worker"] - after["memory_limit_mib_per_worker"] == 1024
    without = said(capsys, *line, "--look-back", "0")
    assert without["memory_usual_mib_per_worker"] < after["memory_usual_mib_per_worker"]
    assert without["memory_limit_mib_per_worker"] == after["memory_limit_mib_per_worker"] - 512
    monkeypatch.setenv("HASHWEIR_MEDIA__FILE_ROOT", str(tmp_path))
    fetching = said(capsys, *line, "--look-back", "0")
    assert fetching["memory_limit_mib_per_worker"] - without["memory_limit_mib_per_worker"] == 2 * 4 * 64
    monkeypatch.setenv("HASHWEIR_SCAN__PROCESSES", "2")
    assert said(capsys, *line)["scan_processes_per_worker"] == 2


def mebibytes(text: str) -> float:
    """Of a quantity as Kubernetes writes it."""
    return float(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


def test_the_pods_memory_is_what_the_model_reckons() -> None:
    """Request and limit of the shipped worker hold as many entries as its manifest says, and not a lot more."""
    base = DEPLOY / "kubernetes" / "base"
    manifest = (base / "worker.yaml").read_text(encoding="utf-8")
    config = load(base / "hashweir.toml")
    (worker,) = yaml.safe_load(manifest)["spec"]["template"]["spec"]["containers"]
    asked, limit = (mebibytes(worker["resources"][which]["memory"]) for which in ("requests", "limits"))
    texts = (manifest, (DEPLOY / "README.md").read_text(encoding="utf-8"))
    (millions,) = {int(found) for text in texts for found in re.findall(r"up to (\d+) million entries", text)}
    usual, most = memory_mib(millions * 1_000_000, config.scan.processes, config)
    assert usual <= asked
    assert most <= limit
    fetching = config.model_copy(update={"media": config.media.model_copy(update={"file_root": "/media"})})
    assert memory_mib(millions * 500_000, config.scan.processes, fetching)[1] <= limit
    assert memory_mib((millions + 1) * 1_000_000, config.scan.processes, config)[1] > limit, "it says too few"


def test_the_shipped_workers_do_not_ask_too_much_of_the_store() -> None:
    """As many workers and entries as the base's comment says take half of the store's one core, and hardly less."""
    file = DEPLOY / "kubernetes" / "base" / "hashweir.toml"
    ((workers, millions),) = re.findall(
        r"with (\d+) workers and (\d+) million entries", file.read_text(encoding="utf-8")
    )
    scaled = (DEPLOY / "kubernetes" / "components").glob("*/scaled-object.yaml")
    found = [one for path in scaled for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    most = [one["spec"]["maxReplicaCount"] for one in found if one["kind"] == "ScaledObject"]
    assert (int(workers), len(most)) == (sum(most), 2)
    cores = int(workers) * int(millions) * SCRUB_STORE_CORE_S / load(file).index.scrub_round_seconds
    assert 0.8 * STORE_CORES < cores <= STORE_CORES
