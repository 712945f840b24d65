# SPDX-License-Identifier: Apache-2.0
"""What a node is charged, as its notifications say it one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.invariants.record import StoredAllocation, Vector

CLASSES = {"VCPU": "vcpus_used", "MEMORY_MB": "memory_mb_used", "DISK_GB": "local_gb_used"}
"""Standard resource class -> its key in a node's view. A vector has each of them, and those custom classes that are not 0."""


def total(*vectors: Vector) -> dict[str, int]:
    """The sum of these vectors."""
    names = [*CLASSES, *sorted({name for vector in vectors for name in vector} - CLASSES.keys())]
    sums = {name: sum(vector.get(name, 0) for vector in vectors) for name in names}
    return {name: amount for name, amount in sums.items() if amount or name in CLASSES}


@dataclass(slots=True)
class Charges:
    """What a node is charged for instances, by uuid, and for instances that move, by uuid and role. ``moves``: by the id of a
    move, what has happened on the node."""

    held: dict[str, StoredAllocation] = field(default_factory=dict)
    moving: dict[tuple[str, str], StoredAllocation] = field(default_factory=dict)
    moves: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.held) + len(self.moving)


@dataclass(slots=True)
class Replay:
    """The state after each notification. ``usage``: sequence -> reserve + sum over allocations; 0 is the beginning.

    ``instances``: sequence -> number of allocations with the role instance; ``others``: of those with other roles. ``charges``:
    sequence -> the sum over all of them. ``charged``: the sum over the
    present ones. ``state``: the last state of the node that was told. ``bare``: the node was last told to have no inventory.
    ``left``: the sequences at which a node has left the name. ``offers``: sequence -> what the node was last told to have of
    each class.
    """

    now: Charges = field(default_factory=Charges)
    usage: dict[int, Vector] = field(default_factory=dict)
    instances: dict[int, int] = field(default_factory=dict)
    others: dict[int, int] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    charges: dict[int, Vector] = field(default_factory=dict)
    state: str = ""
    bare: bool = False
    left: set[int] = field(default_factory=set)
    offered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    offers: dict[int, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def held(self) -> dict[str, StoredAllocation]:
        return self.now.held

    @property
    def moving(self) -> dict[tuple[str, str], StoredAllocation]:
        return self.now.moving

    def put(self, uuid: str, new: StoredAllocation | None) -> None:
        """Charge ``new`` for this instance in place of what is charged; None: nothing."""
        self._count(self.held.pop(uuid, None), -1)
        if new is not None:
            self.held[uuid] = new
            self._count(new, 1)

    def put_moving(self, uuid: str, role: str, new: StoredAllocation | None) -> None:
        """The same in a role that an instance has while it moves."""
        self._count(self.moving.pop((uuid, role), None), -1)
        if new is not None:
            self.moving[uuid, role] = new
            self._count(new, 1)

    def exchange(self, new: Charges) -> Charges:
        """Charge ``new`` in place of everything that is charged, which is returned."""
        before = self.now
        for each, sign in ((before, -1), (new, 1)):
            for held in (*each.held.values(), *each.moving.values()):
                self._count(held, sign)
        self.now = Charges(dict(new.held), dict(new.moving), dict(new.moves))
        return before

    def _count(self, held: StoredAllocation | None, sign: int) -> None:
        if held is not None:
            self.charged = total(self.charged, {name: sign * amount for name, amount in held.resources.items()})
