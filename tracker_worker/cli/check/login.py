# SPDX-License-Identifier: Apache-2.0
"""The addresses of the broker: which of them take this configuration's user."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from amqp.exceptions import AccessRefused, NotAllowed

from tracker_worker.bus.amqp import opening
from tracker_worker.bus.amqp.alarm import Alarm
from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.settings import LOST, BrokerSettings, address
from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.threads import NamedThread

# For so long the broker may leave one request without an answer.
_SILENCE_SECONDS = 3
# Connecting and the login have limits of their own, which are shorter in all.
_ADDRESS_SECONDS = 7.5
_MOST_ADDRESSES = 20
_OPTION = "[DEFAULT] transport_url"


@dataclass(slots=True)
class Attempt:
    """One address: a connection that is logged in, or why there is none; neither: it has not answered."""

    url: str
    connection: Any = None
    stream: Stream | None = None
    problem: Exception | None = None


@contextmanager
def logged_in(settings: BrokerSettings) -> Iterator[list[Attempt]]:
    """Try all addresses of the broker at the same time. Those that took the login are closed at the end of the block."""
    attempts = [Attempt(url) for url in settings.urls[:_MOST_ADDRESSES]]
    threads = [
        NamedThread(target=lambda attempt=attempt: log_in(settings, attempt), name="tracker-login")  # type: ignore[misc]
        for attempt in attempts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_ADDRESS_SECONDS)
    try:
        yield attempts
    finally:
        for attempt in attempts:
            if attempt.stream is not None:
                opening.close(attempt.connection, attempt.stream, blocked=False)


def log_in(settings: BrokerSettings, attempt: Attempt, alarm: Alarm | None = None) -> None:
    """Open the connection of ``attempt``, or note why the broker does not let it. ``alarm`` hears of the broker's alarms."""
    attempt.connection = settings.connection(attempt.url)
    try:
        attempt.stream = opening.log_in(
            attempt.connection, silence_seconds=_SILENCE_SECONDS, alarm=alarm, connected=lambda _: None
        )
    except LOST as failure:
        opening.close(attempt.connection, None, blocked=False)
        attempt.problem = failure


def judge(installation: Installation, attempts: list[Attempt]) -> Iterator[Problem]:
    """What is wrong with the addresses. As long as one of them works, a worker does."""
    find = warning if any(attempt.stream is not None for attempt in attempts) else error
    for attempt in attempts:
        if attempt.stream is None:
            message, cure = _reason(installation, attempt)
            yield find(message, cure)


def _reason(installation: Installation, attempt: Attempt) -> tuple[str, str]:
    parts = urlsplit(attempt.url)
    user, vhost, place = unquote(parts.username or ""), unquote(parts.path[1:]), address(attempt.url)
    why = " ".join(str(attempt.problem).split()) or type(attempt.problem).__name__
    if attempt.problem is None:
        why = f"no answer within {_ADDRESS_SECONDS:g} s"
    elif isinstance(attempt.problem, AccessRefused):
        return (
            f"the broker {place} refuses user {user} or its password ({_OPTION}); `rabbitmqctl add_user` makes a user",
            shlex.join(["rabbitmqctl", "change_password", user]),
        )
    elif isinstance(attempt.problem, NotAllowed) and "not found" in why:
        return f"the broker {place} has no virtual host {vhost} ({_OPTION})", shlex.join(
            ["rabbitmqctl", "add_vhost", vhost]
        )
    elif isinstance(attempt.problem, NotAllowed):
        return (
            f"user {user} has no rights at all in the virtual host {vhost} of {place} ({_OPTION})",
            permissions(installation, user, vhost),
        )
    return (
        f"the broker {place} of {_OPTION} cannot be reached: {why}. It has to run at {parts.hostname}, or another one be named",
        "systemctl start rabbitmq-server",
    )


def permissions(installation: Installation, user: str, vhost: str) -> str:
    """The command that gives a worker's user what it needs."""
    hosts = [word for host in installation.conf.tracker.hosts for word in ("--host", host)]
    arguments = ("rabbitmq", "permissions", "--role", "worker", *hosts, "--user", user, "--vhost", vhost)
    return f"{installation.command(*arguments)} | sh"
