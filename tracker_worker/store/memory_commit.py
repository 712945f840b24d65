# SPDX-License-Identifier: Apache-2.0
"""The rows of the store in memory, and what a commit does to them. The thread that holds the store's lock uses them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tracker_worker.domain.allocation import INCOMING
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.segments import after_cut
from tracker_worker.store.base import Commit, Conflict, History, InboxRow, NodeMove, Progress
from tracker_worker.store.memory_hosts import Charge, Events, Host, Node


@dataclass(slots=True)
class Rows:
    """``hosts`` by name; ``nodes`` and ``streams`` by id; ``inbox`` by unique_id. No id is used twice."""

    histories: list[History]
    hosts: dict[str, Host] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    streams: dict[int, Events] = field(default_factory=dict)
    inbox: dict[str, InboxRow] = field(default_factory=dict)
    _host_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _node_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def ledger_id(self) -> str:
        """The id of the present history."""
        return self.histories[-1].ledger_id

    def host(self, host_id: int) -> Host:
        """Raises LookupError: no host has this id."""
        for host in self.hosts.values():
            if host.id == host_id:
                return host
        raise LookupError(f"no host has the id {host_id}")

    def registered(self, name: str) -> Host:
        """The host of this name, which is made where there is none."""
        if name not in self.hosts:
            self.hosts[name] = Host(id=next(self._host_ids), name=name)
        return self.hosts[name]

    def create_node(self, host: Host, name: str) -> None:
        """See ``Store.create_node``."""
        if name not in host.nodes:
            stream = self.stream(host.name, name)
            node = Node(id=next(self._node_ids), host=host, name=name, stream=stream, generation=stream.generation)
            host.nodes[name] = self.nodes[node.id] = node

    def stream(self, host: str, node: str) -> Events:
        """The stream of these names, which is made where there is none."""
        stream = self.find_stream(host, node)
        if stream is None:
            stream = Events(id=len(self.streams) + 1, host=host, node=node)
            self.streams[stream.id] = stream
        return stream

    def find_stream(self, host: str, node: str) -> Events | None:
        """The stream of these names, or None."""
        named = (each for each in self.streams.values() if (each.host, each.node) == (host, node))
        return next(named, None)

    def progress(self, hosts: Collection[str]) -> Progress:
        """See ``Store.progress``."""
        streams = [stream for stream in self.streams.values() if stream.host in hosts]
        return Progress(
            ledger_id=self.ledger_id,
            generations={node.id: node.generation for node in self.nodes.values() if node.host.name in hosts},
            sequences={stream.id: stream.sequence for stream in streams},
            cursors={(s.id, topic): cursor.sequence for s in streams for topic, cursor in s.cursors.items()},
        )

    def forget_host(self, host_id: int) -> None:
        """See ``Store.forget_host``."""
        for host in [host for host in self.hosts.values() if host.id == host_id]:
            if any(node.allocations for node in host.nodes.values()):
                raise Conflict(f"host {host.name} is charged for instances")
            for node in list(host.nodes.values()):
                node.stream.generation = node.generation
                self.drop_node(node.id)
            del self.hosts[host.name]
        self.inbox = {uid: message for uid, message in self.inbox.items() if message.host_id != host_id}

    def drop_node(self, node_id: int) -> None:
        """Delete a node and all that belongs to it but its stream."""
        node = self.nodes.pop(node_id)
        del node.host.nodes[node.name]


def check(rows: Rows, commit: Commit) -> None:
    """Raises Conflict: see ``Store.commit``."""
    stored = {host.id: host for host in rows.hosts.values()} if commit.verified else {}
    for host_id, generations in commit.verified.items():
        if host_id not in stored or stored[host_id].generations() != generations:
            raise Conflict("a host that an answer rests on has changed")
    if any(message.unique_id in rows.inbox for message in commit.inbox_rows):
        raise Conflict("a message is answered already")
    if len({message.unique_id for message in commit.inbox_rows}) != len(commit.inbox_rows):
        raise Conflict("a message is answered twice")
    if commit.history is not None and commit.history.predecessor != rows.ledger_id:
        raise Conflict("the history has a successor already")
    present = rows.ledger_id if commit.history is None else commit.history.ledger_id
    if commit.ledger_id not in (None, present):
        raise Conflict("the present history is another one")
    for ledger in commit.ledgers:
        node = rows.nodes.get(ledger.id)
        if node is None or node.generation != ledger.stored_generation:
            raise Conflict(f"node {ledger.name} is not at generation {ledger.stored_generation}")
    if commit.dropped_nodes or commit.host_names or commit.moves or commit.ended_streams:
        _check_places(rows, commit)
    _check_charges(rows, commit)
    new = {(notification.stream_id, notification.sequence) for notification in commit.notifications}
    if len(new) != len(commit.notifications) or any(s in rows.streams[stream_id].outbox for stream_id, s in new):
        raise Conflict("a sequence number is taken")


def _check_places(rows: Rows, commit: Commit) -> None:
    for node_id in commit.dropped_nodes:
        node = rows.nodes.get(node_id)
        if node is None or node.allocations:
            raise Conflict("a dropped node is charged or gone")
    names = {host.id: commit.host_names.get(host.id, host.name) for host in rows.hosts.values()}
    if len(set(names.values())) != len(names) or not commit.host_names.keys() <= names.keys():
        raise Conflict("another host has the name")
    moves = {move.node_id: move for move in commit.moves}
    left = [node for node in rows.nodes.values() if node.id not in commit.dropped_nodes]
    if not moves.keys() <= {node.id for node in left}:
        raise Conflict("a node that moves is gone")
    stay = [node for node in left if node.id not in moves]
    places = [(node.host.id, node.name) for node in stay] + [(move.host_id, move.name) for move in moves.values()]
    streams = [node.stream.id for node in stay] + [move.stream_id for move in moves.values()]
    if len(set(places)) != len(places) or len(set(streams)) != len(streams):
        raise Conflict("another node has the name or the stream")
    if not {move.host_id for move in moves.values()} <= names.keys():
        raise Conflict("the host of a move is gone")
    for end in commit.ended_streams:
        if rows.streams[end.stream_id].sequence >= end.sequence:
            raise Conflict("a stream has other events")


def _check_charges(rows: Rows, commit: Commit) -> None:
    if not commit.ledgers:
        return
    moves = {move.node_id: move.host_id for move in commit.moves}
    touched = {allocation_id for ledger in commit.ledgers for allocation_id in ledger.touched}
    nodes: dict[int, list[Node]] = defaultdict(list)
    for node in rows.nodes.values():
        nodes[moves.get(node.id, node.host.id)].append(node)
    seen: set[tuple[int, Charge]] = set()
    incoming: set[Charge] = set()
    for ledger in commit.ledgers:
        host_id = moves.get(ledger.id, rows.nodes[ledger.id].host.id)
        for allocation in ledger.touched.values():
            if allocation is None:
                continue
            charge = allocation.uuid, allocation.role
            others = (node.charged[charge] for node in nodes[host_id] if charge in node.charged)
            if (host_id, charge) in seen or any(other not in touched for other in others):
                raise Conflict("an instance is charged to another node of the host")
            seen.add((host_id, charge))
            if allocation.role == INCOMING:
                elsewhere = (node.charged[charge] for node in rows.nodes.values() if charge in node.charged)
                if charge in incoming or any(other not in touched for other in elsewhere):
                    raise Conflict("another move of an instance is under way")
                incoming.add(charge)
    for host_id in set(moves.values()):
        kept = [charge for node in nodes[host_id] for charge, other in node.charged.items() if other not in touched]
        if len(set(kept)) != len(kept):
            raise Conflict("an instance is charged to another node of the host")


def write(rows: Rows, commit: Commit) -> None:
    """Write a commit that was checked."""
    if commit.history is not None:
        rows.histories.append(commit.history)
        for stream in rows.streams.values():
            stream.lower_cursors()
    for node_id in commit.dropped_nodes:
        rows.drop_node(node_id)
    for host_id, name in commit.host_names.items():
        host = rows.host(host_id)
        del rows.hosts[host.name]
        host.name = name
        rows.hosts[name] = host
    _move(rows, commit)
    for ledger in commit.ledgers:
        _write_ledger(rows, ledger)
    for notification in commit.notifications:
        rows.streams[notification.stream_id].outbox[notification.sequence] = notification
    for message in commit.inbox_rows:
        rows.inbox[message.unique_id] = message
    for (stream_id, topic), sequence in commit.cursors.items():
        rows.streams[stream_id].confirm(topic, sequence)


def _move(rows: Rows, commit: Commit) -> None:
    for end in commit.ended_streams:
        stream = rows.streams[end.stream_id]
        stream.sequence, stream.last_at, stream.generation = end.sequence, end.occurred_at, end.generation
    moves: list[tuple[NodeMove, Node]] = [(move, rows.nodes[move.node_id]) for move in commit.moves]
    for _, node in moves:
        del node.host.nodes[node.name]
    for move, node in moves:
        host = rows.host(move.host_id)
        remembered = {uuid for other in host.nodes.values() for uuid in other.deletions}
        node.deletions = {uuid: at for uuid, at in node.deletions.items() if uuid not in remembered}
        known = {move_id for other in host.nodes.values() for move_id in other.moves}
        node.moves = {move_id: move for move_id, move in node.moves.items() if move_id not in known}
        node.host, node.name, node.stream = host, move.name, rows.streams[move.stream_id]
        host.nodes[move.name] = node


def _write_ledger(rows: Rows, ledger: NodeLedger) -> None:
    node = rows.nodes[ledger.id]
    node.generation, node.life, node.inventory = ledger.generation, ledger.life, ledger.inventory
    node.stream.sequence, node.stream.last_at = ledger.sequence, ledger.last_at
    for allocation_id, allocation in ledger.touched.items():
        node.charge(allocation_id, allocation)
    for uuid in ledger.noted:
        for other in node.host.nodes.values():
            other.deletions.pop(uuid, None)
        if uuid in ledger.deletions:
            node.deletions[uuid] = ledger.deletions[uuid]
    for move_id in ledger.recorded:
        node.moves.pop(move_id, None)
        if move_id in ledger.moves:
            node.moves[move_id] = ledger.moves[move_id]
    node.periods = ledger.periods
    for cut in ledger.segments.cuts:
        node.segments = list(after_cut(node.segments, cut))
    node.segments += ledger.segments.added
    node.closed += ledger.closed
