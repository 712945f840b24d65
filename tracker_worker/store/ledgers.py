# SPDX-License-Identifier: Apache-2.0
"""The ledgers in memory: read from the store when they are needed, forgotten when they may be wrong, never patched.

A database can go back: a backup is restored, or a replica without the last commits takes over. What is read is therefore
compared with what was read and committed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import AnotherHistory, Progress, Store

TOGETHER = 100
"""Of so many rows is a transaction that others may wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How far a node had got when it was read or committed last."""

    host: str
    node: str
    stream_id: int
    generation: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A node that the store has at an earlier state than ``seen``: there it is at this generation, and its stream at this
    sequence."""

    seen: Seen
    generation: int
    sequence: int


class Ledgers:
    """Belongs to one thread at a time. Every method that reads raises StoreUnavailable; and AnotherHistory, until ``reset``,
    where the store is not in the history that was seen before, or is behind what was seen of it.

    ``ledger_id``: the history; None: nothing has been read. ``seen``: node id -> how far it had got."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hosts: dict[str, HostLedger] = {}
        self._doubted = False
        self.ledger_id: str | None = None
        self.seen: dict[int, Seen] = {}

    def find(self, name: str) -> HostLedger | None:
        """A host's ledgers as they were read last and as events have left them since; None: the host has no service record."""
        host = self._hosts.get(name)
        if host is None:
            host = self._store.load_host(name)
            if host is not None:
                self.put(host)
            elif any(seen.host == name for seen in self.seen.values()):
                self.verify()  # perhaps the store has gone back to before the host was there
        return host

    def get(self, name: str) -> HostLedger:
        """The same for a host that is registered."""
        host = self._hosts.get(name) or self.find(name)
        assert host is not None, f"host {name} has no service record"
        return host

    def holds(self, name: str) -> bool:
        """Whether a host's ledgers are in memory, so that they may be old."""
        return name in self._hosts

    def in_memory(self, name: str) -> HostLedger | None:
        """A host's ledgers as they are, which may be old; None: they are not in memory. Any thread may look at them."""
        return self._hosts.get(name)

    def current(self, name: str, node: str) -> NodeLedger | None:
        """A node's ledger as the store has it; None: there is no such node."""
        if self.holds(name):
            self.refresh([name])
        host = self.find(name)
        return None if host is None else host.nodes.get(node)

    def forget(self, names: Iterable[str]) -> None:
        """Read these hosts again when they are needed next."""
        for name in names:
            self._hosts.pop(name, None)

    def refresh(self, names: Iterable[str]) -> None:
        """Bring these hosts' ledgers to the store's generations: one read compares them, and loads those that differ."""
        known = {name: _generations(self._hosts.get(name)) for name in names}
        if known:
            for host in self._store.refreshed(known, ledger_id=self.ledger_id).values():
                self.put(host)

    def put(self, host: HostLedger) -> None:
        """Take over ledgers that were just read."""
        if self.ledger_id is None:
            self.ledger_id = host.ledger_id
        if any(self._is_behind(ledger) for ledger in host) or host.ledger_id != self.ledger_id:
            self._hosts.pop(host.name, None)
            raise AnotherHistory(f"host {host.name} is not as it was seen before")
        for ledger in host:
            self.note(ledger)
        self._hosts[host.name] = host

    def create_nodes(self, nodes: Mapping[str, Iterable[str]]) -> None:
        """Make a row for each of ``nodes`` (host -> their names) that is new."""
        self.refresh(name for name in nodes if name not in self._hosts)
        new = [(host, node) for host in map(self.get, nodes) for node in nodes[host.name] if node not in host.nodes]
        for first in range(0, len(new), TOGETHER):
            with self._store.together():
                for host, node in new[first : first + TOGETHER]:
                    self._store.create_node(host.id, node)
        self.forget({host.name for host, _ in new})

    # --- the history -------------------------------------------------------------------------------------------------

    def note(self, ledger: NodeLedger) -> None:
        """The store has this ledger as it is."""
        self.seen[ledger.id] = Seen(
            host=ledger.host,
            node=ledger.name,
            stream_id=ledger.stream_id,
            generation=ledger.generation,
            sequence=ledger.sequence,
        )

    @property
    def in_doubt(self) -> bool:
        """Whether ``confirm`` would read the store."""
        return self._doubted

    def doubt(self) -> None:
        """The store was away, and may have gone back in the meantime."""
        self._doubted = True

    def confirm(self) -> None:
        """Compare the store with everything that was seen, if there is a doubt."""
        if self._doubted:
            self.verify()

    def verify(self) -> Progress:
        """Compare the store with everything that was seen. Returns the progress of the hosts that were seen."""
        progress = self.progress()
        if self.ledger_id not in (None, progress.ledger_id) or self.lost(progress):
            raise AnotherHistory("the store is not as it was seen before")
        self._doubted = False
        return progress

    def progress(self) -> Progress:
        """The store's progress of the hosts that were seen. Raises StoreUnavailable only."""
        return self._store.progress({seen.host for seen in self.seen.values()})

    def lost(self, progress: Progress) -> list[Lost]:
        """The nodes that the store has at an earlier state than they were seen, by host and node."""
        found = []
        for node_id, seen in self.seen.items():
            # A node may have got another name or host, or none; its stream stays in any case.
            sequence = progress.sequences.get(seen.stream_id, 0)
            generation = progress.generations.get(node_id, seen.generation if sequence else 0)
            if generation < seen.generation or sequence < seen.sequence:
                found.append(Lost(seen=seen, generation=generation, sequence=sequence))
        return sorted(found, key=lambda lost: (lost.seen.host, lost.seen.node))

    def _is_behind(self, ledger: NodeLedger) -> bool:
        seen = self.seen.get(ledger.id)
        if seen is None:
            return False
        # A node that has got another name has another stream, whose numbers are its own.
        same = ledger.stream_id == seen.stream_id
        return ledger.generation < seen.generation or (same and ledger.sequence < seen.sequence)

    def reset(self) -> None:
        """Forget every ledger and everything that was seen: what is read next is the truth."""
        self._hosts.clear()
        self.seen.clear()
        self.ledger_id = None
        self._doubted = False


def _generations(host: HostLedger | None) -> dict[int, int]:
    """Node id -> generation, as last read or written; empty where nothing was read."""
    return {} if host is None else {ledger.id: ledger.stored_generation for ledger in host}
