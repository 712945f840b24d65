# SPDX-License-Identifier: Apache-2.0
"""The moves of the demo's scheduler: it resizes, migrates and evacuates instances, all through TrackerAPI."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from tracker_worker.cli.demo.billing import Charge
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.moves import Kind
from tracker_worker.client.types import Move, Node
from tracker_worker.errors import ComputeResourcesUnavailable

Choose = Callable[[Mapping[str, str], Kind, str, random.Random], Node | None]

KINDS: dict[Kind, str] = {
    "resize": "resized",
    "migration": "migrated",
    "live_migration": "live-migrated",
    "evacuation": "evacuated",
}
_MOST_MOVES = 3  # of one instance


class MoveFailed(Exception):
    """A move that fails in the demo, before the hand-over."""


class Mover:
    """Moves instances. ``move`` may be called from several threads.

    ``owed`` is what the scheduler knows of the instances that were moved, and that stay until the end of the demo: what their
    projects are charged from when on, by uuid, according to the answers.
    """

    def __init__(
        self,
        api: TrackerAPI,
        *,
        choose: Choose,
        limits: Callable[[Node], Mapping[str, float]],
        count: Callable[[str], None],
    ) -> None:
        """``choose`` returns a destination for a move of this kind from this host; ``limits`` returns those of a node."""
        self._api = api
        self._choose = choose
        self._limits = limits
        self._count = count
        self.owed: dict[str, list[Charge]] = {}

    def move(
        self, context: Mapping[str, str], claim: Mapping[str, Any], instance: dict[str, Any], rng: random.Random
    ) -> None:
        """Move an instance, which has been built on the claim, one time or several times."""
        owed = self.owed[instance["uuid"]] = [Charge(claim["begun_at"], instance["project_id"], claim["resources"])]
        here = {**instance, "host": claim["host"], "node": claim["node"]}
        for kind in rng.choices(list(KINDS), k=rng.randint(1, _MOST_MOVES)):
            view = self._choose(context, kind, here["host"], rng)
            if view is not None:
                here = self._hand_over(context, kind, here, view, owed, rng)

    def _hand_over(
        self,
        context: Mapping[str, str],
        kind: Kind,
        here: dict[str, Any],
        view: Node,
        owed: list[Charge],
        rng: random.Random,
    ) -> dict[str, Any]:
        """Move the instance to the node of ``view``, and return the instance as it is afterwards."""
        there = {**here, "node": view["node"]}
        if kind == "resize":
            there["vcpus"] += 1
            there["memory_mb"] += 1024
        try:
            with self._api.move_claim(
                context, there, here["host"], view["host"], kind, from_node=here["node"], limits=self._limits(view)
            ) as move:
                if rng.random() < 0.1:
                    raise MoveFailed
        except ComputeResourcesUnavailable:
            self._count("moves refused")
            return here
        except MoveFailed:
            # ``move_claim`` aborts by a cast. Another move of the instance is refused until that has arrived.
            self._api.abort_move(context, view["host"], move["id"])
            self._count("moves aborted")
            return here
        self._count(KINDS[kind])
        owed.append(Charge(move["finished_at"], here["project_id"], move["resources"]))
        if kind not in ("resize", "migration"):
            return there
        if rng.random() < 0.3:
            reverted = self._revert(context, here["host"], move)
            owed.append(Charge(reverted["ended_at"], here["project_id"], owed[-2].amounts))
            self._count("reverted")
            return here
        self._api.confirm_move(context, here["host"], move["id"], move)
        self._count("confirmed")
        return there

    def _revert(self, context: Mapping[str, str], source: str, move: Move) -> Move:
        reverted = self._api.revert_move(context, move["to_host"], move["id"])
        if source != move["to_host"]:
            self._api.revert_move(context, source, move["id"], reverted["ended_at"], reverted)
        return reverted
