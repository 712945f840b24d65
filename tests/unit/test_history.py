# SPDX-License-Identifier: Apache-2.0
"""What was decided can be read afterwards: an event says the same as it happens and from the outbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, instance_dict, inventory, node_name, update, uuid
from tracker_worker.domain import commands
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ComputeResourcesUnavailable
from tracker_worker.history import Entry, Wanted, of_event, read_history
from tracker_worker.ids import NewIds
from tracker_worker.notifications.asked import Asked, read_asked
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.unit_of_work import UnitOfWork

N1, N2 = node_name(1), node_name(2)
ALICE = Asked(
    method="begin_resource_claim", worker="w", project_id="asks", user_id="alice", request_id="r-1", duration_ms=0.8
)


class Cloud:
    """Decides commands as a worker does, on a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore(now=lambda: NOW)
        self.store.register_host(HOST, topic="tracker", version="1", now=NOW)
        for name in (N1, N2):
            self.store.create_node(1, name)
        self.ledgers = Ledgers(self.store)
        self.now = NOW
        self.seen: list[Entry] = []
        for name in (N1, N2):
            self.decide(commands.ReportNode(node=name, inventory=inventory()))

    def decide(self, command: commands.Command, asked: Asked = ALICE) -> Exception | None:
        self.now += SECOND
        unit = UnitOfWork(self.store, self.ledgers, notify=True, new_id=NewIds(lambda size: bytes(size)))
        decision = unit.decide(self.ledgers.get(HOST), command, self.now, asked.encode())
        for node, event in decision.events:
            entry = of_event(event, host=HOST, node=node.name, asked=asked)
            if entry is not None:
                self.seen.append(entry)
        unit.commit()
        unit.committed()
        return decision.error

    def history(self, **wanted: Any) -> list[dict[str, Any]]:
        return [entry.view() for entry in read_history(self.store, Wanted(**wanted))]


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def live(cloud: Cloud) -> None:
    """Every kind of decision about instances."""
    cloud.decide(begin(1, node=N1))
    cloud.decide(commands.FinishClaim(claim_id=uuid(1)))
    cloud.decide(update(1, vm_state="active"))
    cloud.decide(begin(2, node=N1))
    cloud.decide(commands.RenewClaim(claim_id=uuid(2), timeout=3600 * SECOND))
    cloud.decide(commands.AbortClaim(claim_id=uuid(2)))
    cloud.decide(begin(3, node=N2, limits={"memory_mb": 1}))
    cloud.decide(begin(4, node=N2, timeout=SECOND))
    cloud.now += 10 * SECOND
    cloud.decide(commands.ExpireClaims(node=N2, release=True), Asked(worker="w"))
    cloud.decide(commands.ReleaseAllocation(uuid=uuid(1), reason="it is gone", released_by="bob"))
    cloud.decide(commands.DrainNode(node=N2, reason="a new kernel"))


def test_an_event_says_the_same_as_it_happens_and_from_the_outbox(cloud: Cloud) -> None:
    live(cloud)
    told = cloud.history()
    assert [{**entry.view(), "sequence": None} for entry in cloud.seen] == [
        {**view, "sequence": None} for view in sorted(told, key=lambda view: view["at"])
    ]
    assert [view["outcome"] for view in told[2:]] == [
        "begun",
        "finished",
        "updated",
        "begun",
        "updated",
        "aborted",
        "refused",
        "begun",
        "expired",
        "released",
        "updated",
    ]


def test_an_entry_says_who_asked_what_was_asked_for_and_why_it_was_refused(cloud: Cloud) -> None:
    cloud.decide(begin(3, node=N2, limits={"memory_mb": 1}))
    (view,) = cloud.history(instance_uuid=uuid(3))
    assert view["who"] == {"project_id": "asks", "user_id": "alice", "request_id": "r-1", "roles": []}
    assert (view["method"], view["worker"], view["duration_ms"]) == ("begin_resource_claim", "w", 0.8)
    assert (view["host"], view["node"], view["instance_uuid"]) == (HOST, N2, uuid(3))
    assert (view["outcome"], view["code"]) == ("refused", ComputeResourcesUnavailable.code)
    assert view["figures"]["MEMORY_MB"] == instance_dict(3)["memory_mb"]
    (shortfall,) = view["shortfalls"]
    assert shortfall == {"resource": "MEMORY_MB", "requested": instance_dict(3)["memory_mb"], "used": 512, "limit": 1}
    assert json.loads(json.dumps(view)) == view


def test_the_history_is_looked_for_by_instance_node_project_and_time(cloud: Cloud) -> None:
    live(cloud)
    everything = cloud.history()
    assert cloud.history(node=N1) == [view for view in everything if view["node"] == N1]
    assert cloud.history(instance_uuid=uuid(1)) == [v for v in everything if v["instance_uuid"] == uuid(1)]
    owner = instance_dict(1)["project_id"]
    assert {view["instance_uuid"] for view in cloud.history(project=owner)} == {uuid(n) for n in (1, 2, 3, 4)}
    assert cloud.history(project="asks") == [view for view in everything if view["who"]["project_id"] == "asks"]
    assert cloud.history(project="nobody") == []
    assert cloud.history(since=cloud.now) == everything[-1:]
    assert cloud.history(limit=3) == everything[-3:]
    assert cloud.history(host="elsewhere") == []


def test_metadata_that_names_another_instance_is_not_its_history(cloud: Cloud) -> None:
    cloud.decide(begin(1, node=N1, metadata={"instance_id": uuid(2)}))
    assert cloud.history(instance_uuid=uuid(2)) == []


def test_who_asked_survives_hostile_contexts() -> None:
    asked = read_asked("w", method="m\n", context={"roles": ["a", 1, "b" * 300], "request_id": 7, "user": "x\x1b"})
    assert (asked.method, asked.request_id, asked.user_id) == ("m\\n", "", "x\\x1b")
    assert asked.roles[0] == "a"
    assert len(asked.roles[1]) == 255
