# SPDX-License-Identifier: Apache-2.0
"""A correct run, made by the ledger itself without any server, for tests to alter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.invariants.check import check
from tests.invariants.messages import MOVES
from tests.invariants.record import (
    ERROR,
    RESULT,
    SENT,
    UNKNOWN,
    Evidence,
    Heard,
    OutboxRow,
    Parked,
    Place,
    Request,
    StoredNode,
)
from tests.invariants.stored import allocated, issued
from tests.support.asked import asked
from tests.support.builders import HOST, LEDGER_ID, NOW, TIMEOUT, instance_dict, inventory, node_name
from tracker_worker.domain.adoption import read_adoption
from tracker_worker.domain.commands import (
    AbortClaim,
    BeginClaim,
    BeginClaims,
    Command,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    ReleaseAllocation,
    RenewClaim,
    ReportNode,
    UndrainNode,
    UpdateUsage,
)
from tracker_worker.domain.decide import decide
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.events import UNPUBLISHED, Event, NodeUpdated
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import read_changes, read_instance, read_node
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.resources import ZERO
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso, node_view
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import present, render

PLACE: Place = (HOST, node_name(1))
_POLICY = Policy(
    claim_timeout=TIMEOUT, capacity_limits=False, release_expired=False, reserved=ZERO, deletion_memory=TIMEOUT
)


class Scene:
    """One request after the other on a host with ``nodes`` nodes, each in its own commit.

    Request N is sent at N seconds and ends half a second later; its unique_id is ``u-N``. ``host`` is asked; it may be changed.
    """

    def __init__(self, nodes: int = 1, hosts: Sequence[str] = (HOST,), **inventories: Any) -> None:
        """``inventories``: keys of what the driver of each node returns."""
        self.host = HOST
        self._hosts = {name: HostLedger(id=number, name=name, ledger_id=LEDGER_ID) for number, name in enumerate(hosts)}
        for host in self._hosts.values():
            for number in range(1, nodes + 1):
                key = 100 * host.id + number
                ledger = NodeLedger(id=key, host=host.name, name=node_name(number), stream_id=key, ledger_id=LEDGER_ID)
                host.nodes[ledger.name] = ledger
        self._now = NOW
        self._new_id = NewIds(Random(1).randbytes)
        self.requests: list[Request] = []
        self.heard: list[Heard] = []
        self.parked: list[Parked] = []
        self.inbox: dict[str, Mapping[str, Any] | None] = {}
        self._issued: dict[Place, list[OutboxRow]] = {(one.host, one.name): [] for one in self._ledgers()}
        self._left: dict[Place, StoredNode] = {}
        for ledger in self._ledgers():
            self.host = ledger.host
            self.decide(ReportNode(node=ledger.name, inventory=inventory(**inventories)))
        self.host = HOST

    @property
    def _host(self) -> HostLedger:
        return self._hosts[self.host]

    def _ledgers(self) -> list[NodeLedger]:
        return [ledger for host in self._hosts.values() for ledger in host]

    def call(self, method: str, *, outcome: str | None = None, **args: Any) -> Request:
        """A call that is decided and answered. With ``outcome`` UNKNOWN it is decided, and the answer is lost."""
        decision = self.decide(_command(self.host, method, args))
        if decision.error is not None:
            told: dict[str, Any] = {"outcome": ERROR, "error": decision.error.code, "facts": decision.error.kwargs}
            kept = {"result": None, "failure": json.dumps({"kwargs": decision.error.kwargs})}
        else:
            told = {"outcome": RESULT, "reply": decision.reply}
            kept = {"result": decision.reply, "failure": None}
        if outcome == UNKNOWN:
            told = {"outcome": UNKNOWN}
        request = self.sent(method, args, call=True, **told)
        self.inbox[request.unique_id] = kept
        return request

    def cast(self, method: str, **args: Any) -> Request:
        """A cast that is decided, and parked if it is refused for another reason than resources."""
        error = self.decide(_command(self.host, method, args)).error
        request = self.sent(method, args, call=False, outcome=SENT)
        if error is not None and error.code != "insufficient_resources":
            self.parked.append(Parked(unique_id=request.unique_id, reason=f"{error.code}: {error}"))
        else:
            self.inbox[request.unique_id] = None
        return request

    def begin(self, number: int = 1, *, limits: Mapping[str, Any] | None = None, **fields: Any) -> Request:
        """A call that begins a claim for ``instance_dict(number, **fields)``, on the first node unless ``node`` names
        another node.
        """
        instance = instance_dict(number, **{"node": PLACE[1], **fields})
        return self.call("begin_resource_claim", instance=instance, limits=limits)

    def drain(self, reason: str, node: str = PLACE[1]) -> Request:
        """An operator's command that drains a node."""
        self.decide(DrainNode(node=node, reason=reason))
        args = {"host": HOST, "reason": reason}
        return self.sent("node drain", args, call=True, outcome=RESULT)

    def undrain(self, reason: str, node: str = PLACE[1]) -> Request:
        """An operator's command that takes back a drain."""
        self.decide(UndrainNode(node=node))
        return self.sent("node undrain", {"host": HOST, "reason": reason}, call=True, outcome=RESULT)

    def rename(self, new: str, old: str = PLACE[1]) -> None:
        """Give a node another name, which no node has."""
        ledger = self._host.nodes.pop(old)
        self._tell(ledger, {"next_host": HOST, "next_node": new})
        books = {place: stored for place, stored in self.books([ledger]).items() if place == (HOST, old)}
        self._left |= {
            place: replace(stored, held={}, moving={}, usage=stored.reserved) for place, stored in books.items()
        }
        ledger.name, ledger.stream_id, ledger.sequence, ledger.last_at = new, ledger.stream_id + 100, 0, 0
        self._issued[HOST, new] = []
        self._tell(ledger, {"previous_host": HOST, "previous_node": old})
        ledger.committed()
        self._host.nodes[new] = ledger

    def _tell(self, ledger: NodeLedger, more: Mapping[str, str | int]) -> None:
        event = NodeUpdated(at=self._now, inventory=ledger.inventory, life=ledger.life, more=more)
        ledger.apply(event)
        self._notify(event, ledger)

    def listing(self, node: str = PLACE[1]) -> Request:
        """A call that lists the allocations of a node."""
        ledger = self._host.nodes[node]
        reply = {
            "sequences": {node: ledger.sequence},
            "allocations": [
                {"resources": held.resources.to_dict()}
                for held in (*ledger.allocations.values(), *ledger.moving.values())
            ],
            "next": None,
        }
        return self.sent("list_allocations", {"node": node}, call=True, outcome=RESULT, reply=reply)

    def page(self, node: str = PLACE[1]) -> Request:
        """A call that asks for the instances of a node."""
        ledger = self._host.nodes[node]
        reply = {
            "sequence": ledger.sequence,
            "instances": [
                {**present(ledger, held, self._now), "since": iso(held.since)}
                for _, held in sorted(ledger.allocations.items())
            ],
            "next": None,
        }
        return self.sent("get_instances", {"node": node}, call=True, outcome=RESULT, reply=reply)

    def fetched(self, after: int = 0, limit: int = 100, node: str = PLACE[1]) -> Request:
        """A call that asks for the notifications of a node."""
        issued = [one for one in self.heard if one.place == (HOST, node)]
        asked = [one for one in issued if one.sequence > after][:limit]
        names = ("message_id", "event_type", "priority", "timestamp", "payload")
        reply = {
            "first": 1,
            "last": len(issued),
            "notifications": [{name: getattr(one, name) for name in names} for one in asked],
        }
        args = {"node": node, "after_sequence": after, "limit": limit}
        return self.sent("get_notifications", args, call=True, outcome=RESULT, reply=reply)

    def view(self, node: str = PLACE[1]) -> Request:
        """A call that reads a node's view."""
        return self.sent("get_node", {"node": node}, call=True, outcome=RESULT, reply=node_view(self._host.nodes[node]))

    def expire(self) -> None:
        """Move the time beyond the end of every claim."""
        self._now += 2 * TIMEOUT
        for ledger in self._host:
            self.decide(ExpireClaims(node=ledger.name))

    def sent(self, method: str, args: Mapping[str, Any], **told: Any) -> Request:
        """A request that the ledger does not decide."""
        number = len(self.requests) + 1
        request = Request(
            unique_id=f"u-{number}",
            host=self.host,
            method=method,
            args=args,
            sent_at=number,
            ended_at=number + 0.5,
            **told,
        )
        self.requests.append(request)
        return request

    def decide(self, command: Command) -> Decision:
        """Decide ``command``, apply its events, commit and notify."""
        self._now += 1_000_000
        decision = decide(self._host, command, self._now, self._new_id)
        for ledger, event in decision.events:
            ledger.apply(event)
            if not isinstance(event, UNPUBLISHED):
                self._notify(event, ledger)
        for ledger in self._host:
            ledger.committed()
        return decision

    def _notify(self, event: Event, ledger: NodeLedger) -> None:
        row = render(event, ledger, message_id=self._new_id(event.at))
        self._issued[ledger.host, ledger.name].append(issued(row))
        self.heard.append(
            Heard(
                queue=f"notifications.{row.priority.lower()}",
                message_id=row.message_id,
                event_type=row.event_type,
                priority=row.priority,
                publisher_id=f"tracker.{row.host}",
                timestamp="2026-01-15 12:00:00.000000",
                payload=json.loads(row.payload),
            )
        )

    def books(self, ledgers: Iterable[NodeLedger] = ()) -> dict[Place, StoredNode]:
        """What the store has of ``ledgers``, or else of all nodes and of the names that they had."""
        return self._left | {
            (ledger.host, ledger.name): StoredNode(
                generation=ledger.generation,
                sequence=ledger.sequence,
                reserved=ledger.inventory.reserved.to_dict() if ledger.inventory else {},
                usage=ledger.usage.to_dict(),
                held={uuid: allocated(held) for uuid, held in ledger.allocations.items()},
                moving={key: allocated(held) for key, held in ledger.moving.items()},
                issued=self._issued[ledger.host, ledger.name],
                cursor=ledger.sequence,
            )
            for ledger in ledgers or self._ledgers()
        }

    def evidence(self, **doctored: Any) -> Evidence:
        """The evidence of this run, with the fields in ``doctored`` replaced."""
        whole = Evidence(
            requests=self.requests, heard=self.heard, parked=self.parked, nodes=self.books(), inbox=self.inbox
        )
        return replace(whole, **doctored)


def changed(heard: Heard, **payload: Any) -> Heard:
    """The same notification with other values in its payload."""
    return replace(heard, payload={**heard.payload, **payload})


def _command(host: str, method: str, args: Mapping[str, Any]) -> Command:
    match method:
        case "begin_resource_claim":
            return _begin(args)
        case "begin_resource_claims":
            return BeginClaims(claims=tuple(map(_begin, args["claims"])))
        case "release_allocation":
            return ReleaseAllocation(uuid=args["instance_uuid"], reason=args["reason"], released_by="operator")
        case "adopt":
            return read_adoption(args["instances"], {}, _POLICY)
        case "finish_resource_claim":
            return FinishClaim(claim_id=args["claim_id"])
        case "abort_resource_claim":
            return AbortClaim(claim_id=args["claim_id"])
        case "renew_resource_claim":
            return RenewClaim(claim_id=args["claim_id"], timeout=int(args["timeout"] * SECOND))
        case _ if method in MOVES:
            return _moving(host, method, args)
        case _:
            changes = read_changes(args["instance"])
            node = read_node(args["instance"])
            return UpdateUsage(uuid=changes["uuid"], changes=changes, node=node, notes_deletions=True)


def _moving(host: str, method: str, args: Mapping[str, Any]) -> Command:
    command: Command = asked(host, method, args, _POLICY)
    return command


def only(evidence: Evidence) -> str:
    """The one violation that the checker finds."""
    violations = check(evidence)
    assert len(violations) == 1, violations
    return violations[0]


def _begin(args: Mapping[str, Any]) -> BeginClaim:
    instance = args["instance"]
    return BeginClaim(
        instance=read_instance(instance),
        limits=read_limits(args.get("limits")),
        timeout=TIMEOUT,
        node=read_node(instance),
        claim_id=args.get("claim_id"),
        on_expiry=args.get("on_expiry"),
        remembers_deletions=TIMEOUT,
    )
