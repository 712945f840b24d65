# SPDX-License-Identifier: Apache-2.0
"""What clients ask for: claims and their ends, reports, deletions, reads."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

from tests.invariants.record import RESULT, Request
from tests.simulation.client import Client
from tests.simulation.stage import Stage
from tests.support.builders import instance_dict, sized

_READS = ("get_node", "list_claims", "get_usage")


class Scheduler:
    """One client that begins something ``rate`` times a second, at random times, until ``stop``."""

    def __init__(self, stage: Stage, client: Client, hosts: list[str], random: Random, rate: float) -> None:
        self._stage = stage
        self._client = client
        self._hosts = hosts
        self._random = random
        self._rate = rate
        self._number = 0
        self._running: list[tuple[str, dict[str, Any]]] = []
        self._stopped = False
        self._next()

    def stop(self) -> None:
        self._stopped = True

    def _next(self) -> None:
        if not self._stopped:
            self._stage.later(self._random.expovariate(self._rate), self._act)

    def _act(self) -> None:
        if self._stopped:
            return
        drawn = self._random.random()
        if drawn < 0.1:
            self._client.call(self._random.choice(self._hosts), self._random.choice(_READS))
        elif drawn < 0.35 and self._running:
            self._report()
        else:
            self._claim()
        self._next()

    def _claim(self) -> None:
        self._number += 1
        host = self._random.choice(self._hosts)
        instance = instance_dict(
            uuid=str(UUID(int=self._random.getrandbits(128), version=4)),
            node=host,
            **sized(vcpus=self._random.randint(1, 4), memory_mb=512 * self._random.randint(1, 8), disk_gb=10),
        )
        arguments: dict[str, Any] = {"instance": instance, "limits": {"vcpu": 64.0}}
        if self._random.random() < 0.3:
            arguments["timeout"] = self._random.choice((0.5, 5, 60))
            arguments["on_expiry"] = self._random.choice(("keep", "release"))
        self._client.call(host, "begin_resource_claim", lambda told: self._begun(told, host, instance), **arguments)

    def _begun(self, told: Request, host: str, instance: dict[str, Any]) -> None:
        claim_id = told.reply["claim_id"] if told.outcome == RESULT and told.reply else instance["uuid"]
        drawn = self._random.random()
        if told.outcome != RESULT:
            if drawn < 0.5:
                self._client.cast(host, "abort_resource_claim", claim_id=claim_id)
            return
        if drawn < 0.5:
            self._client.call(host, "finish_resource_claim", claim_id=claim_id)
        elif drawn < 0.65:
            self._client.cast(host, "abort_resource_claim", claim_id=claim_id)
        elif drawn < 0.75:
            self._client.call(host, "renew_resource_claim", claim_id=claim_id)
        if drawn > 0.3:
            self._running.append((host, instance))

    def _report(self) -> None:
        host, instance = self._running.pop(self._random.randrange(len(self._running)))
        state = self._random.choice(("active", "active", "deleted", "deleted", "deleted", "error"))
        self._client.cast(host, "update_usage", instance={"uuid": instance["uuid"], "vm_state": state})
        if state != "deleted":
            self._running.append((host, instance))
