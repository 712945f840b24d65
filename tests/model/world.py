# SPDX-License-Identifier: Apache-2.0
"""One database with two workers on it, its naive ledger, and a consumer of its notifications."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.model.ear import Ear
from tests.model.oracle import Oracle, Outcome
from tests.support.builders import snapshot
from tracker_worker.administration import Administration, Refused
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decision import Decision
from tracker_worker.errors import TrackerError
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.store.base import Conflict
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.unit_of_work import UnitOfWork

TOLD, LOST, RESTARTED = "told", "lost", "restarted"
"""What becomes of a decision: it is committed; the process ends before the commit, or after it."""

Image = tuple[Any, Oracle, dict[int, int]]
"""The rows of a store, what they must be, and how far its consumer has read."""


def _copied(image: Image) -> Image:
    """A copy of everything that can be changed."""
    rows = image[0]
    nodes, streams = rows.nodes.values(), rows.streams.values()
    frozen = [value for node in nodes for value in (*node.allocations.values(), node.life, node.inventory)]
    frozen += [row for stream in streams for row in stream.outbox.values()]
    return copy.deepcopy(image, {id(value): value for value in frozen})


class World:
    """``now``: the clock of the database. ``used``: the ids of all messages of all databases."""

    def __init__(
        self, hosts: dict[str, list[str]], *, now: int, random_bytes: Callable[[int], bytes], used: set[str]
    ) -> None:
        self.now = now
        self.store = MemoryStore(now=lambda: self.now, random_bytes=random_bytes)
        self.new_id = NewIds(random_bytes)
        self.oracle = Oracle()
        self.ear = Ear(used)
        self.workers = [Ledgers(self.store), Ledgers(self.store)]
        self.administration = Administration(self.store, notify=True, new_id=self.new_id)
        for host, nodes in hosts.items():
            host_id = self.store.register_host(host, topic="tracker", version="1", now=now)
            for node in nodes:
                self.store.create_node(host_id, node)
                self.oracle.add(host, node)
        self._read: dict[int, int] = {}
        self._base: dict[int, int] = {}
        self.backup = self._image()

    def step(
        self, worker: int, host: str, command: Command, expect: Callable[[Decision], Outcome], fate: str = TOLD
    ) -> Decision:
        """Let one worker decide ``command``, and compare the decision with what ``expect`` says, which changes the oracle."""
        ledgers = self.workers[worker]
        for _ in range(2):
            unit = UnitOfWork(self.store, ledgers, notify=True, new_id=self.new_id)
            decision = unit.decide(ledgers.get(host), command, self.now)
            if fate == LOST:
                ledgers.forget([host])
                return decision
            if not decision.events:
                unit.unverified.add(host)
            try:
                unit.commit()
                break
            except Conflict:
                ledgers.forget([host])  # the other worker was first: what is read now is the present state
        else:
            raise AssertionError("a decision on what was just read is in conflict")
        unit.committed()
        self._compare(decision, expect(decision))
        if fate == RESTARTED:
            ledgers.forget([host])
        self.listen()
        return decision

    def administer(self, change: Callable[[Administration], Any]) -> str | None:
        """Let an operator change something. Return the class name of the error, if there is one."""
        try:
            change(self.administration)
        except (TrackerError, Refused) as refused:
            self.listen()
            return type(refused).__name__
        self.listen()
        return None

    @staticmethod
    def _compare(decision: Decision, expected: Outcome) -> None:
        happened, answer = expected
        real = [((ledger.host, ledger.name), type(event).__name__) for ledger, event in decision.events]
        assert real == happened, f"{real}, {decision.error!r}; expected: {expected}"
        error = decision.error
        if error is not None and error.code == "insufficient_resources":
            assert error.kwargs["shortfalls"] == answer
        elif error is not None:
            assert type(error).__name__ == answer
        elif isinstance(decision.reply, dict) and "state" in decision.reply:
            assert decision.reply["state"] == answer
        elif isinstance(decision.reply, dict) and "adopted" in decision.reply:
            classes = {error.code: error.__name__ for error in TrackerError.__subclasses__()}
            refused = [(one["instance_uuid"], classes[one["code"]]) for one in decision.reply["refused"]]
            assert {**decision.reply, "refused": refused} == answer
        elif isinstance(decision.reply, list):
            assert [claim and claim["state"] for claim in decision.reply] == answer
        elif isinstance(decision.reply, dict) and "claim_state" in decision.reply:
            assert decision.reply["instance_uuid"] == answer
        else:
            assert decision.reply == answer

    def listen(self) -> None:
        """Let the consumer hear what is new."""
        for stream in [stream for host in self._stream_hosts() for stream in self.store.streams(host)]:
            for row in self.store.outbox(stream.id, after=self._read.get(stream.id, 0), limit=10_000):
                self.ear.hear(row, self._base.get(stream.id, 0))
                self._read[stream.id] = row.sequence
            assert self._read.get(stream.id, 0) == stream.sequence
            for node in self.oracle.nodes():
                if node.place == (stream.host, stream.node):
                    node.last_at = stream.last_at

    def _stream_hosts(self) -> list[str]:
        return sorted({stream.host for stream in self.store._rows.streams.values()})

    def _image(self) -> Image:
        return _copied((self.store._rows, self.oracle, self._read))

    def back_up(self) -> None:
        self.backup = self._image()

    def go_on(self, *, restore: bool) -> None:
        """Begin a new history, with ``restore`` from the backup. Whoever serves has dropped what it knew."""
        if restore:
            self.store._rows, self.oracle, self._read = _copied(self.backup)
        before = self.store.histories()[-1].ledger_id
        self._base = dict(self._read)
        ledger_id = begin_history(self.store, predecessor=before, reason="model", now=self.now, new_id=self.new_id)
        assert ledger_id != before
        self.workers = [Ledgers(self.store), Ledgers(self.store)]
        streams = [stream for host in self._stream_hosts() for stream in self.store.streams(host)]
        announced = [
            row
            for stream in streams
            for row in self.store.outbox(stream.id, after=self._read.get(stream.id, 0), limit=10_000)
        ]
        names = {node.place for node in self.oracle.nodes()} | {(stream.host, stream.node) for stream in streams}
        assert {(row.host, row.node) for row in announced} == names, "every name tells the new history"
        self.ear.went_back(announced)
        self.listen()
        self.back_up()

    def check(self) -> None:
        """Compare store, caches, oracle and consumer."""
        charged = {}
        for name in self.store.host_names():
            host = self.store.load_host(name)
            assert host is not None
            naive = self.oracle.hosts[name]
            assert host.nodes.keys() == naive.keys()
            for ledger in host:
                node = naive[ledger.name]
                assert ledger.usage.to_dict() == node.used(), "usage = reserve + the sum of what is charged"
                assert ledger.life.state == node.state()
                assert ledger.deletions == node.deletions
                held = {
                    uuid: (each.claim_id, each.claim_state, each.built, each.resources.to_dict(), each.expires_at)
                    for uuid, each in ledger.allocations.items()
                }
                assert held == {c.uuid: (c.claim_id, c.state, c.built, c.vector, c.due) for c in node.held.values()}
                for each in node.held.values():
                    charged[name, ledger.name, each.uuid] = each.project or "", each.vector, each.state
                for worker in self.workers:
                    if worker.holds(name) and ledger.name in worker.get(name).nodes:
                        cached = worker.get(name).nodes[ledger.name]
                        if (cached.id, cached.stored_generation) == (ledger.id, ledger.generation):
                            assert snapshot(cached) == snapshot(ledger)
        assert self.ear.charged == charged, "the notifications add up to what is charged"
