# SPDX-License-Identifier: Apache-2.0
"""The files that a run writes, and the description of the machine."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.generator import ROOT

DIRECTORY = ROOT / "benchmarks" / "results"
_LIBRARIES = ("tracker-worker", "oslo.messaging", "kombu", "amqp", "SQLAlchemy", "msgspec", "psycopg")


def path(directory: Path, name: str) -> Path:
    """Return ``<directory>/<name>-<date>-<time>`` without a suffix; create the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def machine(**more: Any) -> dict[str, Any]:
    """The properties of the machine that figures depend on. ``load_average`` shows the machine's other work in the minutes
    before.
    """
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        **more,
    }


def write_json(target: Path, content: Any) -> None:
    """Write dataclasses, mappings and sequences of them as JSON."""
    target.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
