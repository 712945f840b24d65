# SPDX-License-Identifier: Apache-2.0
"""The document of /readyz: whether the worker does its work, for which hosts, and what is in the way.

It is made of figures that the worker has anyway; nobody waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypedDict

from tracker_worker.domain.values import SECOND
from tracker_worker.service.health.figures import Figures
from tracker_worker.service.health.problems import CODES, problems

ACTIVE, STANDBY, NONE = "active", "standby", "none"


class HostRole(TypedDict):
    """``since``: ISO 8601 in UTC, by the clock of the worker's machine."""

    role: str
    since: str


class ProblemRecord(TypedDict):
    """``code`` is one of ``problems.CODES``, ``message`` one sentence."""

    code: str
    message: str


class Document(TypedDict):
    """``ready``: there are no problems. ``ledger_id``: the ledger that the worker works on; None: it is not read yet.
    ``hosts``: every host of the configuration."""

    ready: bool
    pid: int
    version: str
    ledger_id: str | None
    hosts: dict[str, HostRole]
    problems: list[ProblemRecord]


class Readiness:
    """Any thread may call ``document``. It also keeps since when roles and problems are as they are, so that somebody has to
    call it every few seconds."""

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        figures: Callable[[], Figures],
        turn_seconds: int,
        version: str,
        pid: int,
        monotonic: Callable[[], float],
        microseconds: Callable[[], int],
    ) -> None:
        """``monotonic`` gives seconds, ``microseconds`` the time of day of the machine."""
        self._hosts = hosts
        self._figures = figures
        self._turn_seconds = turn_seconds
        self._version = version
        self._pid = pid
        self._monotonic = monotonic
        self._microseconds = microseconds
        self._lock = threading.Lock()
        self._roles: dict[str, HostRole] = {}
        self._since: dict[str, float] = {}  # by code, when the problem was first seen

    def document(self) -> Document:
        """What is known at this moment."""
        figures = self._figures()
        with self._lock:
            found = self._problems_locked(figures)
            return Document(
                ready=not found,
                pid=self._pid,
                version=self._version,
                ledger_id=figures.ledger_id,
                hosts=self._roles_locked(figures),
                problems=found,
            )

    def _problems_locked(self, figures: Figures) -> list[ProblemRecord]:
        now = self._monotonic()
        found = problems(figures, turn_seconds=self._turn_seconds)
        for code in CODES:
            if all(problem.code != code for problem in found):
                self._since.pop(code, None)
        records = []
        for problem in found:
            lasts = now - self._since.setdefault(problem.code, now)
            behind = f"; for {lasts:.0f} s now" if problem.lasting and lasts >= 1 else ""
            records.append(ProblemRecord(code=problem.code, message=problem.message + behind))
        return records

    def _roles_locked(self, figures: Figures) -> dict[str, HostRole]:
        for host in self._hosts:
            role = NONE if host not in figures.served else ACTIVE if host in figures.active else STANDBY
            if host not in self._roles or self._roles[host]["role"] != role:
                since = datetime.fromtimestamp(self._microseconds() / SECOND, UTC)
                self._roles[host] = HostRole(role=role, since=since.isoformat(timespec="milliseconds"))
        return dict(self._roles)


def in_short(document: Document) -> str:
    """The document on one line, for people: the hosts by role, or what is in the way."""
    if document["problems"]:
        return "; ".join(problem["message"] for problem in document["problems"])
    hosts = document["hosts"].items()
    parts = {
        "active for": [name for name, host in hosts if host["role"] == ACTIVE],
        "standby for": [name for name, host in hosts if host["role"] == STANDBY],
    }
    return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)
