# SPDX-License-Identifier: Apache-2.0
"""The load generator's input and output, and the function that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from benchmarks import generator

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
    return generator.run("benchmarks.load", whole, Figures)
