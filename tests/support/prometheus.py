# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that scrapes workers every second."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.servers.ports import Ports
from tests.support.deadline import wait_until

JOB = "tracker-worker"


class Prometheus:
    def __init__(self, directory: Path, ports: Sequence[int], rules: Path | None = None) -> None:
        """``ports``: those of the workers' listeners. ``rules``: a file of alerts."""
        self._directory = directory
        self._reserved = Ports()
        self._port = self._reserved.first
        self._process: subprocess.Popen[bytes] | None = None
        targets = [f"127.0.0.1:{port}" for port in ports]
        content: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
        }
        if rules is not None:
            content["rule_files"] = [str(rules)]
        self._configuration = directory / "prometheus.yml"
        self._configuration.write_text(yaml.safe_dump(content), encoding="utf-8")

    def start(self) -> None:
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._configuration}",
                    f"--storage.tsdb.path={self._directory / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._asked("/-/ready") is not None, "Prometheus")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._reserved.close()

    def value(self, expression: str) -> float | None:
        """The value of an expression that has one series; None: it has none."""
        (found,) = self.values(expression) or [None]
        return found

    def values(self, expression: str) -> list[float]:
        """The values of all series of an expression."""
        return [float(each["value"][1]) for each in self._results(expression)]

    def names(self) -> set[str]:
        """The names of all metrics that were scraped."""
        answer = self._asked("/api/v1/label/__name__/values")
        assert answer is not None
        return set(answer["data"])

    def alerts(self) -> set[str]:
        """The names of the alerts that are pending or firing."""
        answer = self._asked("/api/v1/alerts")
        assert answer is not None
        return {each["labels"]["alertname"] for each in answer["data"]["alerts"]}

    def _results(self, expression: str) -> list[dict[str, Any]]:
        answer = self._asked(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert answer is not None
        results: list[dict[str, Any]] = answer["data"]["result"]
        return results

    def _asked(self, path: str) -> dict[str, Any] | None:
        """The answer of its API; {} where it is no JSON; None: it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as response:
                text = response.read()
        except OSError:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
            return found
        except ValueError:
            return {}


@contextmanager
def prometheus(directory: Path, *ports: int, rules: Path | None = None) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the listeners on these ports. Its files are in ``directory``."""
    server = Prometheus(directory, ports, rules)
    server.start()
    try:
        yield server
    finally:
        server.stop()
