"""What the compose file gives to programs of others, asked of those programs."""

import subprocess
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With the rules beside it, by promtool; a misspelt key is refused."""
    config = DEPLOY / "prometheus" / "prometheus.yaml"
    wrong = tmp_path / "prometheus.yaml"
    wrong.write_text(config.read_text().replace("scrape_interval", "scrape_intervall"))
    codes = [
        subprocess.run(["promtool", "check", "config", path], capture_output=True, check=False, timeout=60).returncode
        for path in (config, wrong)
    ]
    assert codes[0] == 0
    assert codes[1] != 0
