"""A real Prometheus as a child process: on loopback, a free port and a folder of its own."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import ServerError, ServerProcess, free_port


class Prometheus(ServerProcess):
    """Scrapes `targets` (host:port) every second as job `hashweir`, with these rule files."""

    name = "prometheus"
    start_s = 30.0

    def __init__(self, targets: Sequence[str], rules: Sequence[Path]) -> None:
        super().__init__()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(one.resolve()) for one in rules],
            "scrape_configs": [{"job_name": "hashweir", "static_configs": [{"targets": list(targets)}]}],
        }
        # What is JSON is YAML as well.
        (self._folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
        self._address = f"127.0.0.1:{free_port()}"

    def _command(self) -> list[str]:
        binary = shutil.which("prometheus")
        if binary is None:
            raise ServerError("no prometheus: apt-get install prometheus")
        arguments = [f"--config.file={self._folder}/prometheus.yml", f"--storage.tsdb.path={self._folder}/data"]
        return [binary, *arguments, f"--web.listen-address={self._address}", "--log.level=warn"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The answer to an instant query: series with labels (`metric`) and `value`. Raises ServerError."""
        answer = self._ask("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health and last error."""
        groups = self._ask("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://{self._address}{path}", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(f"{path}: {error.read().decode()}") from None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
