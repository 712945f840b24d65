# SPDX-License-Identifier: Apache-2.0
"""Moves of instances on ledgers: commands, and what they charge and tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.builders import (
    TIMEOUT,
    begin,
    host_ledger,
    node_name,
    resources,
    uuid,
)
from tracker_worker.domain.commands import (
    BeginMove,
    StepMove,
)
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.events import MoveChanged
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import FINISH, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.requests import moves as requests

POLICY = Policy(claim_timeout=TIMEOUT, capacity_limits=False, release_expired=False, reserved=resources())
N1, N2 = node_name(1), node_name(2)
WEEK = 168 * 3600 * SECOND
SMALL, LARGE = resources(2, 4096, 50), resources(8, 8192, 80)


def moved(
    number: int = 1, *, node: str = N1, move_id: str = "m1", kind: str = "resize", limits: Any = None, **more: Any
) -> BeginMove:
    """Move the instance to the node, in a larger size."""
    sizes = {"vcpus": 8, "memory_mb": 8192, "root_gb": 70, "ephemeral_gb": 10}
    return BeginMove(begin=begin(number, node=node, limits=limits, **sizes), id=move_id, kind=kind, **more)


def step(name: str, move_id: str = "m1", **more: Any) -> StepMove:
    return StepMove(id=move_id, step=name, remembers=WEEK, **more)


def told(view: Mapping[str, Any]) -> Move:
    """What a destination has answered, as its caller brings it to the source."""
    command = requests.step(FINISH)({"move_id": view["id"], "move": view}, {}, POLICY)
    assert command.told is not None
    return command.told


def charged(host: HostLedger) -> dict[str, Any]:
    """Of each node, the vectors by role that it is charged for the first instance."""
    found: dict[str, Any] = {}
    for ledger, held in host.charges(uuid(1)):
        found.setdefault(ledger.name, {})[held.role] = held.resources
    return found


def roles(decision: Decision) -> list[tuple[str, str, str]]:
    """(node, state of the move, role) of the events that are published."""
    return [
        (ledger.name, event.move.state, event.role)
        for ledger, event in decision.events
        if isinstance(event, MoveChanged)
    ]


def other_host(nodes: int = 1) -> HostLedger:
    """A host of another name."""
    host = host_ledger(nodes)
    host.id, host.name = 2, "host-2"
    for ledger in host:
        ledger.host, ledger.id = "host-2", ledger.id + 10
    return host
