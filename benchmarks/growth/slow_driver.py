# SPDX-License-Identifier: Apache-2.0
"""An inventory driver that is slow for one node, and its installation as a plug-in."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.generator import ROOT
from tracker_worker.inventory.static import StaticDriver

NAME = "benchmark_slow"
SLOW_NODE = "node-slow"
_SECONDS = "BENCHMARK_DRIVER_SECONDS"


class SlowDriver(StaticDriver):
    """The static driver, except that SLOW_NODE is as slow as on a hypervisor that hangs."""

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        if nodename == SLOW_NODE:
            threading.Event().wait(float(os.environ[_SECONDS]))
        return super().get_available_resource(nodename)


def installed(directory: Path, seconds: float) -> Mapping[str, str]:
    """Install this driver as the plug-in of another distribution in ``directory``; return the environment of a worker that
    uses it.

    The driver delays SLOW_NODE by ``seconds``.
    """
    info = directory / f"{NAME}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n", encoding="ascii")
    entry = f"[tracker_worker.inventory]\n{NAME} = {__name__}:{SlowDriver.__name__}\n"
    (info / "entry_points.txt").write_text(entry, encoding="ascii")
    paths = [str(directory), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), _SECONDS: str(seconds)}
