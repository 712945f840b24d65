# SPDX-License-Identifier: Apache-2.0
"""An inventory driver that takes its time with one node, and how a worker is made to find it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.job import ROOT
from tracker_worker.inventory.static import StaticDriver

NAME = "benchmark_slow"
SLOW_NODE = "node-slow"
_SECONDS = "BENCHMARK_DRIVER_SECONDS"


class SlowDriver(StaticDriver):
    """The static driver, as slow with SLOW_NODE as a hypervisor that hangs."""

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        if nodename == SLOW_NODE:
            threading.Event().wait(float(os.environ[_SECONDS]))
        return super().get_available_resource(nodename)


def installed(directory: Path, seconds: float) -> Mapping[str, str]:
    """The environment of a worker that has this driver, as the plug-in of another distribution under ``directory``."""
    info = directory / f"{NAME}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n", encoding="ascii")
    entry = f"[tracker_worker.inventory]\n{NAME} = {__name__}:{SlowDriver.__name__}\n"
    (info / "entry_points.txt").write_text(entry, encoding="ascii")
    paths = [str(directory), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), _SECONDS: str(seconds)}
