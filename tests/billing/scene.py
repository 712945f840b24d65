# SPDX-License-Identifier: Apache-2.0
"""Requests to a worker that lead to every event type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.fleet import GOOD, SILENT, Answers
from tests.support.stock import CONTEXT, Client
from tracker_worker.errors import ComputeResourcesUnavailable

HOST = "compute-1"
FIRST, SECOND, EMPTY = "node-1", "node-2", "node-3"
NODES: Answers = {FIRST: GOOD, SECOND: GOOD, EMPTY: SILENT}
_ACTIVE = {"vm_state": "active", "task_state": None}


class Scene:
    """A scheduler of one host. Instances have numbers; each has a story of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._moves = 0
        self._heard = 0

    def play(self) -> None:
        """Send all requests. The events of instances that are charged have a project and a user."""
        self._claims()
        self._moves_of_instances()
        self._learned_late()
        self._ask("report_instances", node=FIRST, uuids=[uuid(99)])
        self._ask("release_allocation", instance_uuid=uuid(20), reason="the end of the scene")

    def _claims(self) -> None:
        self._begin(1)
        self._ask("renew_resource_claim", claim_id=uuid(1), timeout=3600)
        self._ask("finish_resource_claim", claim_id=uuid(1))
        self._update(1, launched_at="2026-01-15T12:01:08Z", metadata={"metering.stack": "web"}, **_ACTIVE)
        self._update(1, **sized(vcpus=3, memory_mb=128, disk_gb=2))
        self._update(1, project_id="another-project", user_id="another-user")
        self._update(1, vm_state="deleted", deleted_at="2026-01-15T12:09:00Z")
        self._begin(2)
        self._ask("abort_resource_claim", claim_id=uuid(2))
        self._refused("begin_resource_claim", instance=self._instance(3), limits={"vcpu": 0.5})
        assert self._ask("begin_resource_claim", instance=self._instance(4, node=EMPTY)) is None
        self._begin(5, timeout=0.001)
        self._audit_until(lambda: uuid(5) not in self._begun(), "the claim expires")
        self._ask("adopt", instances=[self._instance(6, **_ACTIVE)])

    def _moves_of_instances(self) -> None:
        self._begin(20)
        self._ask("finish_resource_claim", claim_id=uuid(20))
        self._refused("begin_move_claim", instance=self._larger(), move=self._beginning(), limits={"vcpu": 0.5})
        for last in ("confirm_move", "revert_move"):
            move = self._ask("begin_move_claim", instance=self._larger(), move=self._beginning())
            self._ask("finish_move", move_id=move["id"])
            self._ask(last, move_id=move["id"])
        move = self._ask("begin_move_claim", instance=self._larger(), move=self._beginning())
        self._ask("fail_move", move_id=move["id"])
        self._ask("abort_move", move_id=move["id"])
        expiring = {"timeout": 0.001, "on_expiry": "release"}
        self._ask("begin_move_claim", instance=self._larger(), move=self._beginning(), **expiring)
        self._audit_until(lambda: not self._incoming(), "the move expires")

    def _learned_late(self) -> None:
        """An instance was handed over to another ledger at once, and this one hears of it when a period has been told."""
        claim = self._begin(21)
        self._ask("finish_resource_claim", claim_id=uuid(21))
        self._wait_for_usage(lambda told: told["instance_id"] == uuid(21), "its usage is told")
        move = {
            **self._beginning(),
            "instance_uuid": uuid(21),
            "from_host": HOST,
            "from_node": FIRST,
            "to_host": "compute-9",
            "to_node": FIRST,
            "resources": claim["resources"],
            "old_resources": {},
            "state": "finished",
            "limit_source": "unlimited",
            **dict.fromkeys(("begun_at", "finished_at"), claim["begun_at"]),
            "expires_at": claim["expires_at"],
            "ended_at": "",
            "generation": 1,
        }
        self._ask("finish_move", move_id=move["id"], move=move)
        self._wait_for_usage(lambda told: told["adjustments"] and told["seconds"] < 0, "it is taken back")

    def _wait_for_usage(self, found: Callable[[Any], bool], what: str) -> None:
        """Wait until the usage of a period is told of which this is true."""

        def told() -> bool:
            answer = self._ask("get_notifications", node=FIRST, after_sequence=self._heard, limit=500)
            news = [(one["event_type"], one["payload"]) for one in answer["notifications"]]
            self._heard = max([self._heard, *(payload["sequence"] for _, payload in news)])
            return any(found(payload) for event_type, payload in news if event_type == "tracker.usage.exists")

        wait_until(told, what)

    def _begin(self, number: int, **arguments: Any) -> Any:
        return self._ask("begin_resource_claim", instance=self._instance(number), **arguments)

    def _instance(self, number: int, node: str = FIRST, **fields: Any) -> dict[str, Any]:
        return instance_dict(number, node=node, **{**sized(vcpus=1, memory_mb=64, disk_gb=1), **fields})

    def _larger(self) -> dict[str, Any]:
        """The instance that is moved, as it is to be at the destination."""
        return self._instance(20, SECOND, **sized(vcpus=2, memory_mb=128, disk_gb=2))

    def _beginning(self) -> dict[str, Any]:
        self._moves += 1
        return {"id": f"6e0f3c1a-0000-4000-8000-{self._moves:012x}", "kind": "migration"}

    def _update(self, number: int, **fields: Any) -> None:
        changed = self._ask("update_usage", instance={"uuid": uuid(number), **fields})
        assert changed == {"tracked": True, "changed": True}

    def _begun(self) -> set[str]:
        return {claim["instance_uuid"] for claim in self._ask("list_claims")}

    def _incoming(self) -> Any:
        return self._ask("list_allocations", role="incoming")["allocations"]

    def _audit_until(self, done: Callable[[], bool], what: str) -> None:
        wait_until(lambda: self._ask("update_available_resource") and done(), what)

    def _refused(self, method: str, **arguments: Any) -> None:
        try:
            self._ask(method, **arguments)
        except ComputeResourcesUnavailable:
            return
        raise AssertionError(f"{method} is not refused")

    def _ask(self, method: str, **arguments: Any) -> Any:
        return self._client.prepare(HOST, version="1.1").call(CONTEXT, method, **arguments)
