# SPDX-License-Identifier: Apache-2.0
"""Runs the checks within a time limit: what hangs is said, and keeps nothing else from being checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa

from tracker_worker.bus.base import MarkerUnavailable
from tracker_worker.bus.settings import LOST
from tracker_worker.cli.check import registry
from tracker_worker.cli.check.findings import Finding, Level, Problem
from tracker_worker.cli.check.login import judge, logged_in
from tracker_worker.cli.check.opening import open_store
from tracker_worker.cli.check.registry import BROKER, DATABASE, SCHEMA, Check
from tracker_worker.cli.check.subjects import Broker, Database, Installation
from tracker_worker.errors import ConfigurationError, StoreUnavailable
from tracker_worker.threads import NamedThread, monotonic

# Together with the start of the program, a check takes some ten seconds at most.
_PARTS_SECONDS = 8.0
_BOTH_SECONDS = 1.5


class _Part:
    """One thread's share: the findings so far, and the checks that are not done yet."""

    def __init__(
        self, name: str, checks: Sequence[Check[Any]], work: Callable[[_Part], None], *, also: Sequence[Check[Any]] = ()
    ) -> None:
        """``also``: the checks that cannot be done unless ``checks`` are."""
        self.name = name
        self.findings: list[Finding] = []
        self.waiting = [check.name for check in (*checks, *also)]
        self._failure: BaseException | None = None
        self._thread = NamedThread(target=lambda: self._run(work), name=f"tracker-{name}")

    def start(self) -> None:
        self._thread.start()

    def end(self, until: float, *, what: str) -> list[Finding]:
        """The findings when the thread has ended, or at the time ``until`` (monotonic) with one about what is missing."""
        self._thread.join(max(0.0, until - monotonic()))
        if self._failure is not None:
            raise self._failure
        found = list(self.findings)
        if self._thread.is_alive():
            found.append(
                self.not_done(
                    f"{what} does not answer in time", "systemctl status tracker-worker rabbitmq-server postgresql"
                )
            )
        return found

    def run(self, checks: Sequence[Check[Any]], subject: Any) -> None:
        for check in checks:
            self.findings += check.findings(subject)
            self.waiting.remove(check.name)

    def add(self, problem: Problem) -> None:
        """A problem with the connection itself."""
        self.findings.append(Finding(problem.level, self.name, problem.message, problem.cure))

    def not_done(self, why: str, cure: str, level: Level = Level.ERROR) -> Finding:
        left = f"; not checked: {', '.join(self.waiting)}" if self.waiting else ""
        return Finding(level, self.name, f"{why}{left}", cure)

    def _run(self, work: Callable[[_Part], None]) -> None:
        try:
            work(self)
        except BaseException as failure:  # noqa: BLE001 raised again on the main thread
            self._failure = failure


class Run:
    """One run of all checks."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._broker: Broker | None = None
        self._database: Database | None = None
        self._open = ExitStack()

    def findings(self) -> Iterator[Finding]:
        """What all checks find, in the order of the registry."""
        until = monotonic() + _PARTS_SECONDS
        broker = _Part(BROKER, registry.ON_BROKER, self._check_broker, also=registry.ON_BOTH)
        database = _Part(
            DATABASE, (*registry.ON_SCHEMA, *registry.ON_TABLES), self._check_database, also=registry.ON_BOTH
        )
        health = _Part("health", registry.ON_WORKER, lambda part: part.run(registry.ON_WORKER, self._installation))
        for part in (broker, database, health):
            part.start()
        for check in registry.LOCAL:
            yield from check.findings(self._installation)
        yield from broker.end(until, what="the broker of [DEFAULT] transport_url")
        yield from database.end(until, what="the database of [database] connection")
        if self._broker is not None and self._database is not None:
            both = _Part("other_ledger", registry.ON_BOTH, self._check_both)
            both.start()
            yield from both.end(max(until, monotonic()) + _BOTH_SECONDS, what="the broker or the database")
        yield from health.end(until, what="the worker of [health] listen")
        self._open.close()

    def _check_broker(self, part: _Part) -> None:
        attempts = self._open.enter_context(logged_in(self._installation.broker))
        usable = [attempt for attempt in attempts if attempt.stream is not None]
        for problem in judge(self._installation, attempts):
            part.add(problem)
        if not usable:
            last = part.findings.pop()
            part.findings.append(part.not_done(last.message, last.cure or "", last.level))
            return
        part.findings.append(
            Finding(Level.OK, BROKER, f"user and password are right at {len(usable)} of {len(attempts)} brokers", None)
        )
        broker = Broker(self._installation, usable[0].connection, usable[0].url)
        try:
            part.run(registry.ON_BROKER, broker)
        except LOST as failure:
            why = " ".join(str(failure).split())
            part.findings.append(
                part.not_done(
                    f"the connection to the broker {broker.address} of [DEFAULT] transport_url was lost: {why}",
                    "systemctl status rabbitmq-server",
                )
            )
            return
        self._broker = broker

    def _check_database(self, part: _Part) -> None:
        opened = open_store(self._installation)
        if isinstance(opened, Problem):
            part.findings.append(part.not_done(opened.message, opened.cure, opened.level))
            return
        self._open.callback(opened.stop)
        database = Database(self._installation, opened)
        try:
            part.run(registry.ON_SCHEMA, database)
            for finding in part.findings:
                if finding.name == SCHEMA and finding.level is Level.ERROR:
                    part.findings.append(part.not_done("the tables cannot be read", finding.cure or ""))
                    return
            part.run(registry.ON_TABLES, database)
        except (ConfigurationError, StoreUnavailable, sa.exc.SQLAlchemyError) as failure:
            why = " ".join(str(getattr(failure, "orig", None) or failure).split())
            part.findings.append(
                part.not_done(
                    f"the database of [database] connection cannot be read: {why}",
                    self._installation.command("db", "check"),
                )
            )
            return
        part.findings.append(Finding(Level.OK, DATABASE, "the database can be read", None))
        self._database = database

    def _check_both(self, part: _Part) -> None:
        try:
            part.run(registry.ON_BOTH, (self._broker, self._database))
        except (MarkerUnavailable, StoreUnavailable) as failure:
            part.findings.append(part.not_done(str(failure), self._installation.command("check"), Level.WARNING))
