# SPDX-License-Identifier: Apache-2.0
"""The naive ledger's nodes: what looks at them bring, and what operators do to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.model.naive_node import Node
from tracker_worker.domain.decision import Decision

Happened = list[tuple[tuple[str, str], str]]
Outcome = tuple[Happened, Any]
Seen = tuple[Any, ...]


@dataclass
class NodeOracle:
    """``hosts``: host -> node -> its state. ``number``: how many nodes were made."""

    hosts: dict[str, dict[str, Node]] = field(default_factory=dict)
    number: int = 0

    def add(self, host: str, name: str) -> None:
        nodes = self.hosts.setdefault(host, {})
        if name not in nodes:
            self.number += 1
            nodes[name] = Node(host, name, self.number)

    def nodes(self) -> list[Node]:
        return [node for nodes in self.hosts.values() for node in nodes.values()]

    def where(self, host: str, uuid: str) -> Node | None:
        return next((node for node in self.hosts[host].values() if uuid in node.held), None)

    def look(
        self, host: str, name: str, total: Any, reserve: dict[str, int], failed: bool, now: int, decision: Decision
    ) -> Outcome:
        node = self.hosts[host][name]
        before = [_seen(node)]
        node.looked(total, reserve, failed, now)
        return _told([node], before, decision), None

    def list(self, host: str, listed: set[str], decision: Decision) -> Outcome:
        nodes = sorted(self.hosts[host].values(), key=lambda node: node.number)
        before = [_seen(node) for node in nodes]
        for node in nodes:
            node.listed = node.name in listed
        return _told(nodes, before, decision), None

    def say(self, host: str, name: str, what: str, decision: Decision) -> Outcome:
        node = self.hosts[host][name]
        before = [_seen(node)]
        if what in ("drain", "retire") and node.retired:
            return [], "NodeNotFound"
        match what:
            case "drain":
                node.draining = True
            case "undrain":
                node.draining = node.retired = False
            case "retire":
                if node.held:
                    return [], "NodeBusy"
                node.retired = True
            case _:
                node.elsewhere = what == "elsewhere"
        return _told([node], before, decision), None

    def move(self, host: str, old: str, to: str, name: str) -> str | None:
        """The class name of the error, or None: the node has moved."""
        node, target = self.hosts[host][old], self.hosts[to]
        if node.retired:
            return "NodeNotFound"
        if node.place == (to, name):
            return "Refused"
        replaced = target.get(name)
        if replaced is not None and replaced.held:
            return "NodeBusy"
        if not _names([node]).isdisjoint(_names(other for other in target.values() if other is not node)):
            return "ClaimConflict"
        del self.hosts[host][old]
        if host != to and self.hosts[host]:
            min(self.hosts[host].values(), key=lambda other: other.number).deletions.update(node.deletions)
        node.elsewhere = False
        if replaced is not None:
            node.joined(replaced)
        node.host, node.name = to, name
        target[name] = node
        return None

    def forget(self, host: str, before: int, most: int) -> Outcome:
        nodes = sorted(self.hosts[host].values(), key=lambda node: node.number)
        known = [(at, uuid, node.number) for node in nodes for uuid, at in node.deletions.items() if at >= before]
        kept = sorted(known)[max(0, len(known) - most) :]
        happened = []
        for node in nodes:
            left = {uuid: at for at, uuid, number in kept if number == node.number}
            if left != node.deletions:
                happened.append((node.place, "DeletionsForgotten"))
            node.deletions = left
        return happened, None


def _names(nodes: Iterable[Node]) -> set[str]:
    """What claims are named by."""
    return {name for node in nodes for charge in node.held.values() for name in (charge.claim_id, charge.uuid)}


def _seen(node: Node) -> Seen:
    return node.state(), node.total, node.reserve


def _told(nodes: Iterable[Node], before: Iterable[Seen], decision: Decision) -> Happened:
    """What is told of these nodes: what is seen of them has changed, or else it may be the reason, or nothing that is told."""
    real = {(ledger.host, ledger.name): type(event).__name__ for ledger, event in decision.events}
    assert len(real) == len(decision.events)
    happened = []
    for node, was in zip(nodes, before, strict=True):
        kind = "NodeUpdated" if _seen(node) != was else real.get(node.place)
        assert kind in ("NodeUpdated", "LifeNoted", None)
        if kind is not None:
            happened.append((node.place, kind))
    return happened
