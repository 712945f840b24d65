# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TrackerAPI that answers from a cloud and its tape."""

from __future__ import annotations

from typing import Any

from tests.support.billing.cloud import Cloud
from tests.support.billing.truth import Charged
from tracker_worker.domain.views import iso
from tracker_worker.errors import InvalidInput, NodeNotFound


class StandInAPI:
    """``forgets``: how many of the oldest notifications of each name the outbox no longer keeps. ``meanwhile`` is called after
    each answer: what happens while a consumer asks. ``most``: no answer has more notifications or instances."""

    def __init__(self, cloud: Cloud, *, forgets: int = 0, most: int = 500) -> None:
        self.cloud = cloud
        self.forgets = forgets
        self.most = most
        self.calls: list[tuple[str, str, str]] = []

    def meanwhile(self) -> None:
        """Nothing happens; a test may say what does."""

    def get_notifications(
        self, context: Any, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> dict[str, Any]:
        self._check("get_notifications", context, host, node, limit)
        last = self.cloud.tape.last((host, node))
        if not last:
            raise NodeNotFound(host=host, node=node)
        kept = self.cloud.tape.kept[host, node][self.forgets :]
        page = [each for each in kept if each["payload"]["sequence"] > after_sequence][: min(limit, self.most)]
        first = kept[0]["payload"]["sequence"] if kept else last + 1
        answer = {"ledger_id": self.cloud.ledger_id, "first": first, "last": last, "notifications": page}
        self.meanwhile()
        return answer

    def get_instances(
        self, context: Any, host: str, node: str, after: str | None = None, limit: int = 500
    ) -> dict[str, Any]:
        self._check("get_instances", context, host, node, limit)
        ledger = next((each for each in self.cloud.ledgers() if (each.host, each.name) == (host, node)), None)
        if ledger is None or ledger.life.retired is not None:
            raise NodeNotFound(host=host, node=node)
        of_node = sorted(self.cloud.truth.open(ledger.id).items())
        behind = [(uuid, charged) for uuid, charged in of_node if after is None or uuid > after]
        page = behind[: min(limit, self.most)]
        answer = {
            "ledger_id": self.cloud.ledger_id,
            "sequence": self.cloud.tape.last((host, node)),
            "instances": [self._entry(uuid, charged) for uuid, charged in page],
            "next": page[-1][0] if len(behind) > len(page) else None,
        }
        self.meanwhile()
        return answer

    def _entry(self, uuid: str, charged: Charged) -> dict[str, Any]:
        return {
            "instance_id": uuid,
            "tenant_id": charged.project,
            "charged": dict(charged.amounts),
            "role": "instance",
            "state": charged.state,
            "claim_state": charged.claim_state,
            "since": iso(charged.begin),
            "occurred_at": iso(self.cloud.now),
        }

    def _check(self, method: str, context: Any, host: str, node: str, limit: int) -> None:
        assert context == {"user_id": "billing"}
        self.calls.append((method, host, node))
        if not 1 <= limit <= 500:
            raise InvalidInput(field="limit", reason="must be from 1 to 500")
