# SPDX-License-Identifier: Apache-2.0
"""One story with every kind of event. The examples in doc/user show the messages that it really produces.

``python -m tests.support.doc_story`` rewrites the sample notifications; read the difference before the commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.builders import HOST, NODE, NOW, begin, inventory, resources, update, uuid
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.domain.commands import AbortClaim, Command, ExpireClaims, FinishClaim, ReportNode
from tracker_worker.domain.decide import decide
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import claim_views, node_view, usage_view
from tracker_worker.notifications.render import render
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import Commit
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import decode_message

DOC = Path(__file__).parents[2] / "doc"
SAMPLES = DOC / "user" / "samples"
LIMITS = {"memory_mb": 196608.0, "disk_gb": 2000, "vcpu": 128.0}
TIGHT = {"memory_mb": 6144, "vcpu": 3}


class Story:
    """The life of a node. Commands are ten seconds apart."""

    def __init__(self) -> None:
        self.now = NOW
        self._store = MemoryStore()
        self._store.create_node(self._store.register_host(HOST, topic="tracker", version="0.1.0", now=NOW), NODE)
        host = self._store.load_host(HOST)
        assert host is not None
        self.host = host
        self._broker = MemoryBroker()
        self._bus = MemoryBus(self._broker)
        self._relay = Relay(self._store, self._bus, topics=["notifications"], wake=lambda: None)
        self._relay.take(host)

    @property
    def node(self) -> NodeLedger:
        return self.host.node(NODE)

    def tell(self, command: Command, *, after_seconds: int = 10) -> Decision:
        """Decide ``command``, commit its events and publish their notifications."""
        self.now += after_seconds * SECOND
        decision = decide(self.host, command, self.now)
        told = []
        for event in decision.events:
            self.node.apply(event)
            told.append(render(event, self.node))
        self._store.commit(Commit(ledgers=[self.node], notifications=told))
        self.node.committed()
        self._bus.send(self._relay.offer(told))
        return decision

    def notifications(self) -> list[dict[str, Any]]:
        """The notifications since the last call, in order, as on the bus but without the id that each sending generates."""
        messages = []
        while not self._broker.notifications.empty():
            messages.append(decode_message(self._broker.notifications.get()))
            del messages[-1]["_unique_id"]
        return messages


def answers() -> dict[str, Any]:
    """RPC method -> the reply to a call of it in the story."""
    story = Story()
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    begun = story.tell(begin(1, limits=LIMITS)).reply
    told = {
        "begin_resource_claim": begun,
        "get_node": node_view(story.node),
        "list_nodes": [node_view(ledger) for ledger in story.host],
        "update_available_resource": [node_view(ledger) for ledger in story.host],
        "list_claims": claim_views(story.node),
        "get_usage": usage_view(story.host),
        "oslo_rpc_server_ping": "pong",
    }
    told["finish_resource_claim"] = story.tell(FinishClaim(claim_id=uuid(1))).reply
    told["update_usage"] = story.tell(update(1, vm_state="active", task_state=None)).reply
    story.tell(begin(2, limits=LIMITS))
    told["abort_resource_claim"] = story.tell(AbortClaim(claim_id=uuid(2))).reply
    refusal = story.tell(begin(3, limits=TIGHT)).error
    assert refusal is not None
    told["ComputeResourcesUnavailable"] = refusal.kwargs
    return told


def notifications() -> list[dict[str, Any]]:
    """The notifications of the story, in order, at least one of every event type."""
    story = Story()
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    story.tell(begin(1, limits=LIMITS))
    story.tell(begin(2, limits=TIGHT))
    story.tell(FinishClaim(claim_id=uuid(1)))
    running = {"vm_state": "active", "task_state": None, "launched_at": "2026-01-15T12:00:38Z"}
    story.tell(update(1, **running, memory_mb=8192, vcpus=4, instance_type="m1.large", instance_flavor_id="4"))
    gone = {"vm_state": "deleted", "task_state": None, "deleted_at": "2026-01-15T12:00:59Z"}
    story.tell(update(1, **gone, terminated_at="2026-01-15T12:00:58Z"))
    story.tell(begin(3, limits=LIMITS))
    story.tell(AbortClaim(claim_id=uuid(3)))
    story.tell(begin(4))
    story.tell(ExpireClaims(node=NODE), after_seconds=660)
    # This simulates a manual change of the table.
    story.node.drift = resources(vcpu=5, memory_mb=8704, disk_gb=100)
    story.tell(ReportNode(node=NODE, inventory=inventory()))
    return story.notifications()


def samples() -> dict[str, dict[str, Any]]:
    """Event type -> its first notification in the story."""
    first: dict[str, dict[str, Any]] = {}
    for message in notifications():
        first.setdefault(message["event_type"], message)
    return first


def text(value: Any) -> str:
    """JSON as the pages show it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for event_type, message in samples().items():
        (SAMPLES / f"{event_type}.json").write_text(text(message), encoding="utf-8")
