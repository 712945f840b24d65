# SPDX-License-Identifier: Apache-2.0
"""A process with many callers: ``python -m tests.progress.load``.

It runs until its standard input is closed, and then waits for the answers to what is under way.

``hosts``: each host always has a call under way on its own topic, and the busy ones have eight. ``shared``: reads and claims on
the shared topic, called audits, and a fanout every few seconds. Every answer goes to a file of JSON lines.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from tests.progress.report import Answer
from tests.support.callers import Called, Callers, connected, small

BUSY_HOSTS = 4
BUSY_IN_FLIGHT = 8
# Both workers serve so many of the hosts, the busy ones among them.
BOTH = 20
SHARED_IN_FLIGHT = 4
FANOUT_SECONDS = 5.0
# What takes longer than this has no answer.
CALL_SECONDS = 60.0


def node_of(host: str) -> str:
    return f"{host}-node"


class Load:
    """Calls that follow one another on one connection, until ``stopping``."""

    def __init__(self, callers: Callers, log: Callable[[Answer], None], hosts: list[str], seed: int) -> None:
        self._callers = callers
        self._log = log
        self._hosts = hosts
        self._draw = random.Random(seed)
        self.stopping = False

    def hosts(self) -> None:
        for number, host in enumerate(self._hosts):
            for _ in range(BUSY_IN_FLIGHT if number < BUSY_HOSTS else 1):
                self._claims(lambda host=host: (host, host))  # type: ignore[misc]

    def shared(self) -> None:
        for _ in range(SHARED_IN_FLIGHT):
            self._claims(lambda: (None, self._draw.choice(self._hosts[:BOTH])))
            self._repeat(lambda: (None, "get_usage", {}))
            self._repeat(lambda: (None, "list_nodes", {}))
        self._repeat(lambda: (self._draw.choice(self._hosts), "update_available_resource", {}))

    def fanout(self) -> None:
        self._callers.fanout("update_available_resource", {})

    def _claims(self, where: Callable[[], tuple[str | None, str]]) -> None:
        """Begin a claim and end it, again and again; ``where`` gives the topic and the host."""
        topic, host = where()
        identity = str(UUID(int=self._draw.getrandbits(128), version=4))

        def end() -> None:
            self._call(topic, "abort_resource_claim", {"claim_id": identity, "host": host}, lambda: self._claims(where))

        self._call(topic, "begin_resource_claim", {"host": host, "instance": small(identity, node_of(host))}, end)

    def _repeat(self, what: Callable[[], tuple[str | None, str, dict[str, Any]]]) -> None:
        self._call(*what(), lambda: self._repeat(what))

    def _call(self, topic: str | None, method: str, arguments: dict[str, Any], then: Callable[[], None]) -> None:
        def done(called: Called) -> None:
            self._log(answer(called))
            if not self.stopping:
                then()

        self._callers.call(topic, method, arguments, done, seconds=CALL_SECONDS)


def answer(called: Called) -> Answer:
    ended_at = None if called.seconds is None else called.began_at + called.seconds
    return Answer(called.host, called.method, called.began_at, ended_at, called.failure)


@click.command()
@click.option("--url", required=True)
@click.option("--log", "path", type=click.Path(path_type=Path), required=True)
@click.option("--part", type=click.Choice(["hosts", "shared"]), required=True)
@click.option("--hosts", required=True, help="Their names, separated by commas.")
@click.option("--seed", type=int, required=True)
def main(url: str, path: Path, part: str, hosts: str, seed: int) -> None:
    """Run the callers of one process."""
    stopping = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
    encode = msgspec.json.encode
    with path.open("wb") as log, connected(url) as callers:
        load = Load(callers, lambda one: log.write(encode(one) + b"\n"), hosts.split(","), seed)
        fanouts = itertools.count(1)
        started = next_fanout = time.monotonic()
        (load.hosts if part == "hosts" else load.shared)()
        while not stopping.is_set():
            callers.wait(0.1)
            if part == "shared" and time.monotonic() >= next_fanout:
                load.fanout()
                next_fanout = started + next(fanouts) * FANOUT_SECONDS
        load.stopping = True
        end = time.monotonic() + CALL_SECONDS
        while callers.under_way and time.monotonic() < end:
            callers.wait(0.1)
        for called in callers.under_way:
            log.write(encode(answer(called)) + b"\n")


if __name__ == "__main__":
    main()
