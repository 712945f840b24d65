# SPDX-License-Identifier: Apache-2.0
"""The load generator's input and output, and the function that runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

import msgspec

ROOT = Path(__file__).parents[1]
NOTIFICATIONS = "notifications.info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The input of the load generator.

    ``watched`` maps a process's name in the figures to its id and must contain ``server``. ``notifications`` is the
    queue that gets one notification for each call, or '' if the side sends no notifications.
    """

    address: str
    user: str
    password: str
    virtual_host: str
    hosts: Sequence[str]
    in_flight: int
    calls: int
    warmup: int
    seed: str
    watched: Mapping[str, int]
    notifications: str = ""
    others: float = 0.0
    method: str = "begin_resource_claim"
    exchange: str = "openstack"
    topic: str = "tracker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One measurement. ``cpu_us`` is microseconds of CPU per call, by process. ``notified_after_ms`` is the time from the last
    reply until the last notification was in its queue.
    """

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: Mapping[str, float]
    notified_after_ms: float
    peak_mb: float
    resident_mb: float


def run(url: str, **job: object) -> Figures:
    """Generate load on the broker of an oslo.messaging transport URL.

    Raises RuntimeError: the load generator failed; the message holds the end of its stderr.
    """
    parts = urlsplit(url)
    whole = {
        "address": f"{parts.hostname}:{parts.port}",
        "user": parts.username,
        "password": parts.password,
        "virtual_host": unquote(parts.path[1:]),
        **job,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], cwd=ROOT, input=msgspec.json.encode(whole), capture_output=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed:\n{done.stderr.decode()[-4000:]}")
    return msgspec.json.decode(done.stdout, type=Figures)


def medians(measured: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    found: dict[str, object] = {}
    for field in fields(Figures):
        values = [getattr(one, field.name) for one in measured]
        if field.name == "cpu_us":
            found[field.name] = {name: median(value[name] for value in values) for name in values[0]}
        else:
            found[field.name] = median(values)
    return msgspec.convert(found, Figures)


def as_dict(figures: Figures) -> dict[str, object]:
    return asdict(figures)
