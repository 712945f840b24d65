# SPDX-License-Identifier: Apache-2.0
"""The real ceilometer-agent-notification as a separate process, with file publishers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.deadline import wait_until

ETC = Path(__file__).parents[2] / "etc" / "ceilometer"
# Of oslo.log's lines, those in which Ceilometer itself complains.
_COMPLAINT = re.compile(r"^.* (?:WARNING|ERROR|CRITICAL) ceilometer\..*$", re.MULTILINE)
# The samples of etc/ceilometer write below this directory.
_PUBLISHED = "/var/lib/ceilometer"


def prefix() -> Path:
    """The environment that Ceilometer is installed in."""
    return Path(os.environ["BILLING_CEILOMETER"])


class Agent:
    """One agent that listens to one topic.

    With ``definitions`` it reads the files of etc/ceilometer, else nothing but what Ceilometer packages. ``rabbit`` holds the
    [oslo_messaging_rabbit] options, which must be those of the worker; ``publisher`` is the URL of another publisher of samples
    beside the file. Not thread-safe.
    """

    def __init__(
        self,
        directory: Path,
        *,
        transport_url: str,
        topic: str,
        rabbit: Mapping[str, Any],
        definitions: bool = True,
        publisher: str = "",
    ) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "ceilometer.log"
        directory.mkdir()
        meters = directory / "meters.d"
        meters.mkdir()
        for name in ("pipeline.yaml", "event_pipeline.yaml"):
            text = (ETC / name).read_text(encoding="utf-8").replace(_PUBLISHED, str(directory))
            if publisher and name == "pipeline.yaml":
                text += f"      - {publisher}\n"
            if not definitions:
                text = text.replace('"tracker.*"', '"*"')
            (directory / name).write_text(text, encoding="utf-8")
        if definitions:
            (meters / "tracker.yaml").write_bytes((ETC / "meters.yaml").read_bytes())
            (directory / "event_definitions.yaml").write_bytes((ETC / "event_definitions.yaml").read_bytes())
        packaged = next(prefix().glob("lib/python3.*/site-packages/ceilometer/data/meters.d"))
        sections: dict[str, Mapping[str, Any]] = {
            "DEFAULT": {
                "transport_url": transport_url,
                "pipeline_cfg_file": directory / "pipeline.yaml",
                "event_pipeline_cfg_file": directory / "event_pipeline.yaml",
            },
            "notification": {"notification_control_exchanges": "openstack"},
            "oslo_messaging_notifications": {"topics": topic},
            "oslo_messaging_rabbit": rabbit,
            "event": {"definitions_cfg_file": directory / "event_definitions.yaml"} if definitions else {},
        }
        lines = [
            line
            for section, options in sections.items()
            for line in (f"[{section}]", *(f"{name} = {value}" for name, value in options.items()))
        ]
        lines += ["[meter]", f"meter_definitions_dirs = {meters}", f"meter_definitions_dirs = {packaged}"]
        (directory / "ceilometer.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [prefix() / "bin" / "ceilometer-agent-notification", "--config-file", "ceilometer.conf"],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """Let the agent finish what it has received."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._process = None

    def close(self) -> None:
        """End the agent and the process that it has started."""
        if self._process is not None:
            self.stop()

    def events(self) -> list[dict[str, Any]]:
        """What the event pipeline has published so far."""
        return self._lines("tracker-events.json")

    def samples(self) -> list[dict[str, Any]]:
        """What the sample pipeline has published so far."""
        return self._lines("tracker-samples.json")

    def complaints(self) -> list[str]:
        """The warnings and errors that Ceilometer itself has logged."""
        return _COMPLAINT.findall(self.log())

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for_events(self, count: int) -> None:
        wait_until(
            lambda: len(self.events()) >= count,
            lambda: f"{count} events; there are {len(self.events())}; the agent says:\n{self.log()[-4000:]}",
        )

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self._directory / name
        if not path.exists():
            return []
        # The last line may not be whole yet.
        return [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
