# SPDX-License-Identifier: Apache-2.0
"""One story with every kind of event. The examples in doc/user show the messages that it really produces.

``python -m tests.support.doc_story`` rewrites the sample notifications, and the first JSON block of each section of the pages
that shows something of the story; read the difference before the commit.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.builders import HOST, NODE, NOW, TIMEOUT, begin, instance_dict, inventory, resources, update, uuid
from tests.support.closing import Closer
from tracker_worker.domain import queries
from tracker_worker.domain.adoption import read_adoption
from tracker_worker.domain.calendar import HOURS
from tracker_worker.domain.commands import (
    AbortClaim,
    AdoptInstances,
    BeginClaims,
    BeginMove,
    Command,
    CompareInstances,
    ExpireClaims,
    FinishClaim,
    ReleaseAllocation,
    RenewClaim,
    ReportNode,
    StepMove,
)
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import each_claim_view, node_view, usage_view
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import PLAIN
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.unit_of_work import UnitOfWork
from tracker_worker.wire.measured import encode_within
from tracker_worker.wire.message import decode_message

DOC = Path(__file__).parents[2] / "doc"
SAMPLES = DOC / "user" / "samples"
RPC = DOC / "user" / "rpc.md"
NOTIFICATIONS = DOC / "user" / "notifications.md"
LIMITS = {"memory_mb": 196608.0, "disk_gb": 2000, "vcpu": 128.0}

TIGHT = {"memory_mb": 6144, "vcpu": 3}
CLASSES = {"VGPU": 4, "VCPU": {"allocation_ratio": 4}}
_MOST_BYTES = 1 << 20
POLICY = Policy(claim_timeout=TIMEOUT, capacity_limits=False, release_expired=False, reserved=resources())


class Story:
    """The life of a node. Commands are ten seconds apart."""

    def __init__(self) -> None:
        self.now = NOW
        numbers = itertools.count()

        def random_bytes(size: int) -> bytes:
            return b"".join((0x9E3779B97F4A7C15 * next(numbers) % 2**64).to_bytes(8) for _ in range(size // 8))

        self._store = MemoryStore(now=lambda: self.now, random_bytes=random_bytes)
        self._store.create_node(self._store.register_host(HOST, topic="tracker", version="0.1.0", now=NOW), NODE)
        self._ledgers = Ledgers(self._store)
        self._new_id = NewIds(random_bytes)
        self._told: list[dict[str, Any]] = []
        self._moves = itertools.count(1)
        self._stored = StoredAnswers(
            store=self._store, ledgers=self._ledgers, calendar=HOURS, style=PLAIN, max_answer_bytes=_MOST_BYTES
        )

    @property
    def host(self) -> HostLedger:
        return self._ledgers.get(HOST)

    @property
    def node(self) -> NodeLedger:
        return self.host.node(NODE)

    def tell(self, command: Command, *, after_seconds: int = 10) -> Decision:
        """Decide ``command``, commit its events and encode their notifications."""
        self.now += after_seconds * SECOND
        unit = UnitOfWork(self._store, self._ledgers, notify=True, new_id=self._new_id)
        decision = unit.decide(self.host, command, self.now)
        unit.commit()
        unit.committed()
        for notification in unit.notifications:
            message = decode_message(notification.encode())
            del message["_unique_id"]  # each sending generates another one
            self._told.append(message)
        return decision

    def claim_id(self, number: int) -> str:
        """The id of the claim by which an instance is charged."""
        return self.node.allocations[uuid(number)].claim_id

    def moved(self, number: int, kind: str, **options: Any) -> BeginMove:
        """A move of the instance to twice its size, on the same node."""
        larger = begin(number, vcpus=4, memory_mb=8192, vm_state="active", task_state="resize_prep", **options)
        return BeginMove(begin=larger, id=f"6e0f3c1a-0000-4000-8000-{next(self._moves):012x}", kind=kind)

    def close_periods(self, at: int) -> None:
        """Close the periods of the node that are over at ``at``."""
        self.now = at
        Closer(
            self._store,
            self._ledgers,
            [HOST],
            calendar=HOURS,
            clock=lambda: self.now,
            do=lambda _host, command: self.tell(command, after_seconds=0),
        ).close()

    def stored(self, query: queries.StoredQuery) -> Any:
        """The answer that the store gives now."""
        found = self._stored.read(HOST, query, self.now)
        return json.loads(encode_within(found, _MOST_BYTES, packed=False))

    def answer(self, query: queries.Query) -> Any:
        """The answer to a question now."""
        return queries.kept(queries.read([self.host], query, self.now))

    def notifications(self) -> list[dict[str, Any]]:
        """The notifications, in order, as on the bus but without the id that each sending generates."""
        return self._told


def answers() -> dict[str, Any]:
    """RPC method -> the reply to a call of it in the story."""
    story = Story()
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    begun = story.tell(begin(1, limits=LIMITS)).reply
    said = {
        "begin_resource_claim": begun,
        "get_node": node_view(story.node),
        "list_nodes": [node_view(ledger) for ledger in story.host],
        "update_available_resource": [node_view(ledger) for ledger in story.host],
        "list_claims": list(each_claim_view(story.host)),
        "get_usage": usage_view(story.host),
        "oslo_rpc_server_ping": "pong",
        "would_fit": story.answer(queries.WouldFit(begin=begin(2, limits=TIGHT))),
    }
    said["renew_resource_claim"] = story.tell(RenewClaim(claim_id=story.claim_id(1), timeout=2 * TIMEOUT)).reply
    said["finish_resource_claim"] = story.tell(FinishClaim(claim_id=story.claim_id(1))).reply
    said["update_usage"] = story.tell(update(1, vm_state="active", task_state=None)).reply
    said["get_allocation"] = story.answer(queries.GetAllocation(uuid=uuid(1)))
    story.tell(begin(2, limits=LIMITS))
    said["list_allocations"] = story.answer(queries.ListAllocations(limit=1))
    said["get_instances"] = story.stored(queries.GetInstances(node=NODE, after=None, limit=1))
    said["report_instances"] = story.tell(CompareInstances(node=NODE, uuids=frozenset({uuid(7)}))).reply
    said["abort_resource_claim"] = story.tell(AbortClaim(claim_id=story.claim_id(2))).reply
    refusal = story.tell(begin(3, limits=TIGHT)).error
    assert refusal is not None
    said["ComputeResourcesUnavailable"] = refusal.kwargs
    said["begin_resource_claims"] = story.tell(BeginClaims(claims=(begin(4), begin(5)))).reply
    moved = story.tell(story.moved(1, "resize")).reply
    said["begin_move_claim"] = moved
    said["finish_move"] = story.tell(_step(moved, FINISH)).reply
    said["revert_move"] = story.tell(_step(moved, REVERT)).reply
    moved = story.tell(story.moved(1, "resize")).reply
    said["fail_move"] = story.tell(_step(moved, FAIL)).reply
    said["abort_move"] = story.tell(_step(moved, ABORT)).reply
    moved = story.tell(story.moved(1, "resize")).reply
    story.tell(_step(moved, FINISH))
    said["confirm_move"] = story.tell(_step(moved, CONFIRM)).reply
    said["release_allocation"] = story.tell(_released(1)).reply
    said["adopt"] = story.tell(_adopted()).reply
    said["get_notifications"] = story.stored(queries.GetNotifications(node=NODE, after=1, limit=1))
    return said


def notifications() -> list[dict[str, Any]]:
    """The notifications of the story, in order, at least one of every event type."""
    story = Story()
    story.tell(ReportNode(node=NODE, inventory=None))
    story.tell(begin(9, limits=LIMITS))
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    story.tell(begin(1, limits=LIMITS))
    story.tell(begin(2, limits=TIGHT))
    story.tell(RenewClaim(claim_id=story.claim_id(1), timeout=2 * TIMEOUT))
    story.tell(FinishClaim(claim_id=story.claim_id(1)))
    running = {"vm_state": "active", "task_state": None, "launched_at": "2026-01-15T12:01:08Z"}
    story.tell(update(1, **running, memory_mb=8192, vcpus=4, instance_type="m1.large", instance_flavor_id="4"))
    gone = {"vm_state": "deleted", "task_state": None, "deleted_at": "2026-01-15T12:01:29Z"}
    story.tell(update(1, **gone, terminated_at="2026-01-15T12:01:28Z"))
    story.tell(begin(3, limits=LIMITS))
    story.tell(AbortClaim(claim_id=story.claim_id(3)))
    story.tell(begin(4))
    story.tell(ExpireClaims(node=NODE), after_seconds=660)
    story.tell(CompareInstances(node=NODE, uuids=frozenset({uuid(7)})))
    story.tell(_released(4))
    story.tell(begin(5))
    story.tell(FinishClaim(claim_id=story.claim_id(5)))
    story.tell(story.moved(5, "resize", limits=TIGHT))
    for last in (CONFIRM, REVERT):
        moved = story.tell(story.moved(5, "resize")).reply
        story.tell(_step(moved, FINISH))
        story.tell(_step(moved, last))
    moved = story.tell(story.moved(5, "migration")).reply
    story.tell(_step(moved, FAIL))
    story.tell(_step(moved, ABORT))
    story.tell(story.moved(5, "migration"))
    story.tell(ExpireClaims(node=NODE), after_seconds=660)
    # This simulates a manual change of the table.
    story.node.drift = resources(vcpu=5, memory_mb=8704, disk_gb=100)
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    story.tell(ReportNode(node=NODE, inventory=inventory(resources=CLASSES)))
    story.tell(_adopted())
    story.close_periods(NOW + 3602 * SECOND)
    return story.notifications()


def _step(move: Mapping[str, Any], step: str) -> StepMove:
    return StepMove(id=move["id"], step=step, remembers=TIMEOUT * 100)


def _adopted() -> AdoptInstances:
    running: dict[str, Any] = {"vm_state": "active", "task_state": None, "launched_at": "2025-11-03T08:30:00Z"}
    asked = [instance_dict(6, **running, resources={"VGPU": 1}), instance_dict(4, **running), {"uuid": uuid(8)}]
    return read_adoption(asked, {}, POLICY)


def _released(number: int) -> ReleaseAllocation:
    return ReleaseAllocation(uuid=uuid(number), reason="lost with its disk", released_by="operator")


def samples() -> dict[str, dict[str, Any]]:
    """Event type -> its first notification in the story."""
    first: dict[str, dict[str, Any]] = {}
    for message in notifications():
        first.setdefault(message["event_type"], message)
    return first


def text(value: Any) -> str:
    """JSON as the pages show it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _show(page: Path, shown: Mapping[str, Any]) -> None:
    """Put ``shown``, by heading, into the first JSON block of its section, where there is one."""
    content = page.read_text("utf-8")
    for heading, value in shown.items():
        block = re.compile(rf"(^#+ {re.escape(heading)}\n(?:(?!^#).*\n)*?```json\n)(?:.*\n)*?(```\n)", re.MULTILINE)
        content = block.sub(lambda found, value=value: found[1] + text(value) + found[2], content, count=1)
    page.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    for event_type, message in samples().items():
        (SAMPLES / f"{event_type}.json").write_text(text(message), encoding="utf-8")
    _show(NOTIFICATIONS, {"Receiving them": samples()["tracker.claim.begun"]})
    named = {"ComputeResourcesUnavailable": "Errors"}
    _show(RPC, {named.get(name, f"`{name}`"): value for name, value in answers().items()})
