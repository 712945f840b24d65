# SPDX-License-Identifier: Apache-2.0
"""The ledgers in memory: read from the store when they are needed, forgotten when they may be wrong, never patched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.store.base import Store


class Ledgers:
    """Belongs to one thread at a time. Every method raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hosts: dict[str, HostLedger] = {}

    def find(self, name: str) -> HostLedger | None:
        """A host's ledgers as they were read last and as events have left them since; None: the host has no service record."""
        host = self._hosts.get(name)
        if host is None:
            host = self._store.load_host(name)
            if host is not None:
                self._hosts[name] = host
        return host

    def get(self, name: str) -> HostLedger:
        """The same for a host that is registered."""
        host = self._hosts.get(name) or self.find(name)
        assert host is not None, f"host {name} has no service record"
        return host

    def holds(self, name: str) -> bool:
        """Whether a host's ledgers are in memory, so that they may be old."""
        return name in self._hosts

    def current(self, name: str, node: str) -> NodeLedger | None:
        """A node's ledger at the store's generation; None: there is no such node."""
        host = self._hosts.get(name)
        if host is not None:
            held = host.nodes.get(node)
            if held is None or self._store.generations([host.id]).get(held.id) != held.stored_generation:
                self.forget([name])
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
            self._hosts.update(self._store.refreshed(known))

    def put(self, host: HostLedger) -> None:
        """Take over ledgers that were read elsewhere."""
        self._hosts[host.name] = host

    def create_nodes(self, name: str, nodes: Sequence[str]) -> None:
        """Make a row for each of ``nodes`` that is new."""
        host = self.get(name)
        new = [node for node in nodes if node not in host.nodes]
        for node in new:
            self._store.create_node(host.id, node)
        if new:
            self.forget([name])


def _generations(host: HostLedger | None) -> dict[int, int]:
    """Node id -> generation, as last read or written; empty where nothing was read."""
    return {} if host is None else {ledger.id: ledger.stored_generation for ledger in host}
