# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TrackerAPI: it answers as the workers of a cloud do, and from its tape."""

from __future__ import annotations

from typing import Any

from tests.support.billing.cloud import Cloud
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
        answer = self.cloud.instances(host, node, after=after, limit=min(limit, self.most))
        self.meanwhile()
        return answer

    def _check(self, method: str, context: Any, host: str, node: str, limit: int) -> None:
        assert context == {"user_id": "billing"}
        self.calls.append((method, host, node))
        if not 1 <= limit <= 500:
            raise InvalidInput(field="limit", reason="must be from 1 to 500")
