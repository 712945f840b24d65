# SPDX-License-Identifier: Apache-2.0
"""What the worker on this machine says about itself at ``[health] listen``."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_config import cfg

from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.publishing import alarm_cure
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.text import printable

_SECONDS = 3
_MOST_BYTES = 4_000_000
_MOST_PROBLEMS = 50
_RESTART = "systemctl restart tracker-worker"
# A worker that has begun, or is about to end, is no failure.
_PASSING = ("starting", "stopping")


def listening(conf: cfg.ConfigOpts) -> tuple[str, int] | None:
    """Host and port of ``[health] listen``; None: there is no such option, or it is off, or it is no address."""
    if "health" not in conf or "listen" not in conf.health:
        return None
    host, _, port = str(conf.health.listen or "").rpartition(":")
    return (host.strip("[]") or "127.0.0.1", int(port)) if port.isdecimal() else None


def check_health(installation: Installation) -> Iterator[Problem]:
    """The worker says that it is ready, and has no problems."""
    place = listening(installation.conf)
    if place is None:
        return
    option = f"{place[0]}:{place[1]} ([health] listen)"
    try:
        answer = _ask(*place)
    except (OSError, http.client.HTTPException) as failure:
        why = " ".join(str(failure).split()) or type(failure).__name__
        yield warning(f"no worker answers at {option}: {why}", installation.serve)
        return
    if answer is None:
        yield warning(f"what answers at {option} is no worker of this release", installation.serve)
        return
    problems = answer.get("problems")
    found = [each for each in problems if isinstance(each, Mapping)] if isinstance(problems, list) else []
    for problem in found[:_MOST_PROBLEMS]:
        code = printable(str(problem.get("code")), 100)
        find = warning if code in _PASSING else error
        yield find(
            f"the worker at {option} has a problem: {code}: {printable(str(problem.get('message')))}",
            _cure(installation, code),
        )
    if not found and answer.get("ready") is not True:
        yield warning(f"the worker at {option} is not ready, and does not say why", _RESTART)


def _ask(host: str, port: int) -> dict[str, Any] | None:
    """The answer of /readyz; None: it is no JSON object."""
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz")
        body = connection.getresponse().read(_MOST_BYTES)
    finally:
        connection.close()
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _cure(installation: Installation, code: str) -> str:
    hosts = installation.conf.tracker.hosts
    cures = {
        "starting": installation.command("check"),
        "stopping": installation.serve,
        "broker_unreachable": "systemctl start rabbitmq-server",
        "broker_alarm": alarm_cure(),
        "store_unavailable": installation.command("db", "check"),
        "other_ledger": installation.command("host", "adopt", hosts[0] if len(hosts) == 1 else "HOST"),
    }
    return cures.get(code, _RESTART)
