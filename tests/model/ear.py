# SPDX-License-Identifier: Apache-2.0
"""A consumer of the notifications of one database: it checks their numbers and times, and keeps who is charged what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.notifications.notification import Notification
from tracker_worker.notifications.schema import validator

Place = tuple[str, str]
UNCHARGED = ("tracker.claim.rejected", "tracker.claim.untracked")


@dataclass
class Ear:
    """``charged``: (host, node, uuid) -> the project and the amounts that it is charged, and the state of the claim.
    ``ids``: the ids of all messages, of every ledger."""

    ids: set[str]
    heard: list[dict[str, Any]] = field(default_factory=list)
    last: dict[tuple[str, Place], tuple[int, str]] = field(default_factory=dict)
    charged: dict[tuple[str, str, str], tuple[str, dict[str, int], str]] = field(default_factory=dict)

    def hear(self, row: Notification, base: int) -> None:
        """The next notification of a stream. ``base``: the number at which the stream was when its history began."""
        payload = json.loads(row.payload)
        validator(row.event_type)(payload)
        assert row.message_id not in self.ids, "a message id is used twice"
        self.ids.add(row.message_id)
        key = payload["ledger_id"], (row.host, row.node)
        sequence, at = self.last.get(key, (base, ""))
        assert payload["sequence"] == sequence + 1, "each number is used once per ledger_id, without a gap"
        assert payload["occurred_at"] >= at, "the time of a node's events never falls"
        assert (row.sequence, row.host, row.node) == (payload["sequence"], payload["host"], payload["node"])
        self.last[key] = payload["sequence"], payload["occurred_at"]
        told = {"event_type": row.event_type, **payload}
        self.heard.append(told)
        self._book(told)

    def went_back(self, announced: list[Notification]) -> None:
        """A new history has begun: take back what never happened. Every name that is left has told it,
        and what was heard of another name never happened at all."""
        kept: dict[Place, int] = {}
        for row in announced:
            payload = json.loads(row.payload)
            kept[row.host, row.node] = payload["previous_sequence"]
        old = {json.loads(row.payload)["previous_ledger_id"] for row in announced}
        self.heard = [
            told
            for told in self.heard
            if told["ledger_id"] not in old or told["sequence"] <= kept.get((told["host"], told["node"]), 0)
        ]
        self.charged = {}
        for told in self.heard:
            self._book(told)
        self.charged = {key: value for key, value in self.charged.items() if key[:2] in kept}

    def _book(self, told: dict[str, Any]) -> None:
        place = told["host"], told["node"]
        if "next_host" in told:
            new = told["next_host"], told["next_node"]
            for key in [key for key in self.charged if key[:2] == place]:
                self.charged[(*new, key[2])] = self.charged.pop(key)
        if "instance_id" not in told or told["event_type"] in UNCHARGED:
            return
        key = (*place, told["instance_id"])
        if told["role"] == "instance":
            self.charged[key] = told["tenant_id"], told["charged"], told["claim_state"]
        else:
            assert not any(told["charged"].values())
            was = self.charged.pop(key)
            assert told["tenant_id"] == was[0], "an end carries the owner that was charged"
            assert told["resources"] == was[1], "an end ends what was charged"
