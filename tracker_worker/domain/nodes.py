# SPDX-License-Identifier: Apache-2.0
"""Decisions on nodes: what looks at them bring, and what operators do to them."""

from __future__ import annotations

from msgspec.structs import replace

from tracker_worker.domain import commands, events, life
from tracker_worker.domain.decision import Decision, decided
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import Life, Mark, renewed
from tracker_worker.errors import NodeBusy


def report(ledger: NodeLedger, command: commands.ReportNode, now: int) -> Decision:
    happened: list[events.Event] = []
    if ledger.drift is not None:
        happened.append(events.UsageDrift(at=ledger.time(now), stored=ledger.drift, usage=ledger.usage))
    inventory, known = command.inventory, ledger.life
    if inventory is not None:
        known = replace(known, look=life.ANSWERED, silent_since=None, silent_reason="")
    else:
        if command.keeps_inventory or command.failure is not None:
            inventory = ledger.inventory
        known = replace(
            known,
            look=life.NOTHING if command.failure is None else life.FAILED,
            silent_since=ledger.time(now) if known.silent_since is None else known.silent_since,
            silent_reason="the driver answers nothing" if command.failure is None else command.failure,
        )
    return decided(ledger, *happened, *_lives(ledger, inventory, known, now))


def listed(host: HostLedger, command: commands.ReportList, now: int) -> Decision:
    happened: list[tuple[NodeLedger, events.Event]] = []
    for ledger in host:
        if command.failure is not None:
            if ledger.life.listed:
                look = commands.ReportNode(node=ledger.name, inventory=None, failure=command.failure)
                happened += report(ledger, look, now).events
        elif ledger.life.listed != (ledger.name in command.nodes):
            known = replace(ledger.life, listed=not ledger.life.listed)
            happened += [(ledger, event) for event in _lives(ledger, ledger.inventory, known, now)]
    return Decision(events=tuple(happened), whole_host=True)


def elsewhere(ledger: NodeLedger, command: commands.NoteElsewhere, now: int) -> Decision:
    return decided(ledger, *_lives(ledger, ledger.inventory, replace(ledger.life, elsewhere=command.host), now))


def drain(ledger: NodeLedger, command: commands.DrainNode, now: int) -> Decision:
    mark = Mark(reason=command.reason, since=ledger.time(now))
    return decided(ledger, *_lives(ledger, ledger.inventory, replace(ledger.life, draining=mark), now))


def undrain(ledger: NodeLedger, now: int) -> Decision:
    return decided(ledger, *_lives(ledger, ledger.inventory, replace(ledger.life, draining=None, retired=None), now))


def retire(ledger: NodeLedger, command: commands.RetireNode, now: int) -> Decision:
    if charged := ledger.instances:
        raise NodeBusy(host=ledger.host, node=ledger.name, instances=charged)
    mark = Mark(reason=command.reason, since=ledger.time(now))
    return decided(ledger, *_lives(ledger, ledger.inventory, replace(ledger.life, retired=mark), now))


def _lives(ledger: NodeLedger, inventory: Inventory | None, known: Life, now: int) -> tuple[events.Event, ...]:
    """The event of a node that is known so now; none if that is nothing new."""
    at = ledger.time(now)
    new = renewed(known, has_inventory=inventory is not None, at=at)
    old = ledger.life
    if inventory != ledger.inventory or (new.state, new.reason) != (old.state, old.reason):
        return (events.NodeUpdated(at=at, inventory=inventory, life=new),)
    return () if new == old else (events.LifeNoted(at=at, life=new),)
