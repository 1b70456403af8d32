"""The image and the compose file: well-formed, and speaking of what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hashweir.config import load
from tests.servers.kafka.jars import kafka_version

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BIN = Path(sys.executable).parent


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the checkers beside this Python, and what it said."""
    return subprocess.run([str(BIN / program), *arguments], capture_output=True, text=True, check=False, timeout=60)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_the_containerfile_is_clean() -> None:
    """hadolint finds nothing; it does find what is wrong."""
    done = run("hadolint", str(DEPLOY / "Containerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_careless_containerfile_is_found(tmp_path: Path) -> None:
    """The check of the test above can fail."""
    careless = tmp_path / "Containerfile"
    careless.write_text("FROM debian:latest\nRUN apt-get update && apt-get install -y g++\n")
    assert {"DL3007", "DL3008"} <= set(re.findall(r"DL\d+", run("hadolint", str(careless)).stdout))


def test_the_image_does_not_run_as_root_and_has_no_compiler() -> None:
    """What hadolint does not ask: a numeric user, and nothing but the library of the fences in the last stage."""
    last = re.split(r"^FROM ", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)[-1]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"install --yes --no-install-recommends ([^\n\\]*)", last) == ["libseccomp2 "]
    assert "pip" not in last


def test_what_the_image_is_made_of_is_in_the_tree() -> None:
    """Each COPY from the tree names something that is there and that .dockerignore lets in."""
    let_in = {
        line.removeprefix("!") for line in (DEPLOY.parent / ".dockerignore").read_text().split() if line[0] == "!"
    }
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert set(copied) == let_in
    assert all((DEPLOY.parent / name).exists() for name in copied)


def test_the_compose_file_fits_the_specification(tmp_path: Path) -> None:
    """By the schema of the Compose specification; a misspelt key does not."""
    command = ["--builtin-schema", "vendor.compose-spec"]
    assert run("check-jsonschema", *command, str(DEPLOY / "compose.yaml")).returncode == 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_perod"))
    assert run("check-jsonschema", *command, str(wrong)).returncode == 1


@pytest.mark.parametrize("name", ["worker", "create"])
def test_the_compose_file_configures_what_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is a key, every value fits, and the drain ends before the container is killed."""
    service = compose()["services"][name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    config = load()
    assert config.kafka.bootstrap.split(":")[0] in compose()["services"]
    assert config.store.url.split("/")[2].split(":")[0] in compose()["services"]
    assert config.worker.canary_period_seconds > 0, "or HashweirCanaryMissing never fires, and `create` makes no set"
    if name == "worker":
        assert int(service["stop_grace_period"].removesuffix("s")) >= config.worker.drain_seconds + 5
        assert f":{config.metrics.port}/live" in service["healthcheck"]["test"][-1]


def test_the_compose_file_mounts_what_exists_and_opens_nothing_but_loopback() -> None:
    """Folders come from beside it, volumes and networks are declared, ports are this machine's own."""
    whole = compose()
    for name, service in whole["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).is_dir() if source.startswith(".") else source in whole["volumes"], (name, mount)
        assert set(service["networks"]) <= set(whole["networks"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_store_is_full_before_its_container_is() -> None:
    """It refuses writes then, instead of being killed; a quarter is left for what a fork copies."""
    store = compose()["services"]["valkey"]
    settings = dict(zip(store["command"][1::2], store["command"][2::2], strict=True))
    assert settings["--maxmemory-policy"] == "noeviction"
    assert 0 < int(settings["--maxmemory"].removesuffix("gb")) <= 0.75 * int(store["mem_limit"].removesuffix("g"))


def test_images_have_a_version_and_kafka_is_the_one_tested_with() -> None:
    """No `latest`; the broker is that of the tests."""
    images = {name: one["image"] for name, one in compose()["services"].items() if one["image"] != "hashweir"}
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image) for image in images.values())
    assert images["kafka"].split(":")[1] == kafka_version()


def test_prometheus_finds_the_worker_and_the_rules() -> None:
    """It asks for a service of the compose file at the port of its metrics; rules are read by their ending."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (asked,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert set(asked["names"]) <= set(compose()["services"])
    assert asked["port"] == load().metrics.port
    assert config["rule_files"] == ["*.yml"]
    assert "/etc/prometheus/prometheus.yaml" in compose()["services"]["prometheus"]["command"][0]
