# SPDX-License-Identifier: Apache-2.0
"""An inventory driver of several nodes whose answers a test sets, installed for one worker like a separate package."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.fake import fake_resource

_ANSWERS = "TRACKER_TEST_FLEET"
_ROOT = Path(__file__).parents[2]

GOOD = "good"
SILENT = "silent"
FAILING = "failing"
Answers = Mapping[str, str]
"""Node -> GOOD: the inventory of ``fake_resource``; SILENT: the driver answers nothing; FAILING: it raises."""


class FleetDriver(InventoryDriver):
    """Runs in the worker's process. Lists the nodes of the file named by the environment's _ANSWERS, and answers as it says."""

    def get_available_nodes(self) -> Sequence[str]:
        return list(self._answers())

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        match self._answers()[nodename]:
            case "good":
                return fake_resource(nodename=nodename)
            case "silent":
                return None
            case _:
                raise RuntimeError(f"the controller of {nodename} does not answer")

    @staticmethod
    def _answers() -> Answers:
        answers: Answers = json.loads(Path(os.environ[_ANSWERS]).read_text(encoding="utf-8"))
        return answers


class Fleet:
    """The driver ``fleet``, for a worker that is started with ``environment``."""

    def __init__(self, directory: Path) -> None:
        metadata = directory / "fleet_driver-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: fleet-driver\nVersion: 1.0\n", encoding="utf-8"
        )
        (metadata / "entry_points.txt").write_text(
            f"[tracker_worker.inventory]\nfleet = {FleetDriver.__module__}:{FleetDriver.__name__}\n", encoding="utf-8"
        )
        self._answers = directory / "fleet.json"
        self.environment = {
            "PYTHONPATH": os.pathsep.join([str(directory), str(_ROOT)]),
            _ANSWERS: str(self._answers),
        }

    def answer(self, answers: Answers) -> None:
        """Let the driver list these nodes and answer so from now on."""
        written = self._answers.with_suffix(".new")
        written.write_text(json.dumps(answers), encoding="utf-8")
        written.replace(self._answers)
