# SPDX-License-Identifier: Apache-2.0
"""The ledgers of a host, and what is found in them by instance, claim and move. Not thread-safe: whoever owns the ledgers of
its nodes owns it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracker_worker.domain.allocation import HOLD, INCOMING, INSTANCE, ROLES, Allocation
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import Move
from tracker_worker.errors import InvalidInput, NodeNotFound


class HostLedger:
    """The ledgers of one host's nodes, by node name. ``ledger_id`` names the history that they were read from."""

    __slots__ = ("id", "ledger_id", "name", "nodes")

    def __init__(self, *, id: int, name: str, ledger_id: str = "") -> None:
        self.id = id
        self.name = name
        self.ledger_id = ledger_id
        self.nodes: dict[str, NodeLedger] = {}

    def __iter__(self) -> Iterator[NodeLedger]:
        return iter(self.nodes.values())

    def node(self, name: str) -> NodeLedger:
        """The node of that name. Raises NodeNotFound: the host has no such node, or it is retired."""
        ledger = self.nodes.get(name)
        if ledger is None or ledger.life.retired is not None:
            raise NodeNotFound(host=self.name, node=name)
        return ledger

    def any_node(self, name: str) -> NodeLedger:
        """The node of that name, also if it is retired. Raises NodeNotFound: the host has no such node."""
        ledger = self.nodes.get(name)
        if ledger is None:
            raise NodeNotFound(host=self.name, node=name)
        return ledger

    def node_or_only(self, name: str | None, field: str) -> NodeLedger:
        """The node of that name, or the host's only node when ``name`` is None; a node that the driver does not list and that
        is empty does not count.

        Raises NodeNotFound: the host has no such node, or no node at all. Raises InvalidInput (for ``field``): ``name`` is
        None and the host has several nodes.
        """
        return self.node(name) if name is not None else self._only([node for node in self if _is_there(node)], field)

    def node_to_claim(self, name: str | None, field: str) -> NodeLedger:
        """The same for a claim: without a name, only nodes count that may take claims. If there are none, the other ones count,
        so that the claim is refused, or granted without a charge, by the state of the node."""
        if name is not None:
            return self.node(name)
        nodes = [node for node in self if node.life.retired is None]
        there = [node for node in nodes if _is_there(node)]
        return self._only([node for node in there if node.life.is_named_by_default] or there or nodes, field)

    def _only(self, nodes: Sequence[NodeLedger], field: str) -> NodeLedger:
        if not nodes:
            raise NodeNotFound(host=self.name, node=None)
        if len(nodes) > 1:
            raise InvalidInput(field=field, reason=f"must name a node: host {self.name} has {len(nodes)}")
        return nodes[0]

    def holding(self, uuid: str) -> NodeLedger | None:
        """The node that is charged for this instance, or None."""
        for ledger in self.nodes.values():
            if uuid in ledger.allocations:
                return ledger
        return None

    def claimed(self, claim_id: str) -> tuple[NodeLedger, Allocation] | None:
        """The allocation whose claim has this id, and its node, or None."""
        for ledger in self.nodes.values():
            uuid = ledger.claims.get(claim_id)
            if uuid is not None:
                return ledger, ledger.allocations[uuid]
        return None

    def named(self, name: str) -> tuple[NodeLedger, Allocation] | None:
        """The allocation whose claim has this id, or whose instance has this uuid, and its node, or None."""
        found = self.claimed(name)
        if found is None and (ledger := self.holding(name)) is not None:
            found = ledger, ledger.allocations[name]
        return found

    def charge(self, uuid: str, role: str) -> tuple[NodeLedger, Allocation] | None:
        """What the host is charged for an instance in this role, and the node, or None."""
        if role == INSTANCE:
            holder = self.holding(uuid)
            return None if holder is None else (holder, holder.allocations[uuid])
        return next((found for found in self.moving(uuid) if found[1].role == role), None)

    def moving(self, uuid: str) -> Iterator[tuple[NodeLedger, Allocation]]:
        """What the host is charged for an instance in other roles than INSTANCE, and the nodes."""
        for ledger in self.nodes.values():
            if ledger.moving:  # mostly there is nothing
                for role in (INCOMING, HOLD):
                    held = ledger.moving.get((uuid, role))
                    if held is not None:
                        yield ledger, held

    def charges(self, uuid: str) -> list[tuple[NodeLedger, Allocation]]:
        """All that the host is charged for an instance, by ROLES."""
        return [found for role in ROLES if (found := self.charge(uuid, role)) is not None]

    def move(self, move_id: str) -> tuple[NodeLedger, Move] | None:
        """The record of a move, and the node that keeps it, or None."""
        for ledger in self.nodes.values():
            if move_id in ledger.moves:
                return ledger, ledger.moves[move_id]
        return None

    def deleted_at(self, uuid: str) -> int | None:
        """When the deletion of this instance, which was not charged, was last reported, or None. Microseconds."""
        last = None
        for ledger in self.nodes.values():
            at = ledger.deletions.get(uuid)
            if at is not None and (last is None or at > last):
                last = at
        return last


def _is_there(node: NodeLedger) -> bool:
    life = node.life
    return life.retired is None and (life.listed or bool(node.allocations) or bool(node.moving))
