# SPDX-License-Identifier: Apache-2.0
"""An inventory driver whose answers a test can hold back, installed for one worker like a separate package."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.fake import fake_resource

_HOLD = "TRACKER_TEST_HOLD"
_ROOT = Path(__file__).parents[2]


class HeldDriver(InventoryDriver):
    """Runs in the worker's process. Holds every answer for as long as the file named by the environment's _HOLD exists; if the
    file has lines, only those of the hosts that it names."""

    def get_available_nodes(self) -> Sequence[str]:
        return [f"{self.host}-node"]

    def get_available_resource(self, nodename: str) -> Mapping[str, Any]:
        pause = threading.Event()
        while self._held():
            pause.wait(0.02)
        return fake_resource(nodename=nodename)

    def _held(self) -> bool:
        try:
            hosts = Path(os.environ[_HOLD]).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return False
        return not hosts or self.host in hosts


def install(directory: Path) -> tuple[Path, dict[str, str]]:
    """Install the driver ``held`` for a worker that is started with the returned environment.

    The first item of the returned pair is the file that holds the answers while it exists.
    """
    metadata = directory / "held_driver-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: held-driver\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        f"[tracker_worker.inventory]\nheld = {HeldDriver.__module__}:{HeldDriver.__name__}\n", encoding="utf-8"
    )
    hold = directory / "hold"
    return hold, {"PYTHONPATH": os.pathsep.join([str(directory), str(_ROOT)]), _HOLD: str(hold)}
