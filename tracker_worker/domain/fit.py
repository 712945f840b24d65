# SPDX-License-Identifier: Apache-2.0
"""The one capacity rule: a request fits a limit if and only if ``requested <= limit - used``.

The limit is a ceiling on total usage, and ``used`` includes the host's reserve. The physical total is not enforced, so
the free amount may be negative. A request for 0 of a resource does not raise its usage and always fits.

Whatever the limits are, a node that has no such class takes none of it, and a request must be in the units in which the node
hands out the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tracker_worker.domain.classes import is_class_name
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.resources import CLASSES, MAX_USAGE, STANDARD, Resources
from tracker_worker.domain.values import read_limit
from tracker_worker.errors import InvalidInput

# A standard class has two names; the first one is that of version 1.0.
_LIMIT_KEYS = {klass.limit: index for index, klass in enumerate(CLASSES)}
_INDEX = {**_LIMIT_KEYS, **{name: index for index, name in enumerate(STANDARD)}}


class Limits(msgspec.Struct, frozen=True):
    """The ceilings of a claim: on the standard classes in their order, where None means no ceiling, and on custom classes by
    name."""

    ceilings: tuple[int | None, ...]
    custom: Mapping[str, int] = {}

    @property
    def given(self) -> bool:
        """Whether at least one resource class has a ceiling."""
        return any(ceiling is not None for ceiling in self.ceilings) or bool(self.custom)

    def completed(self, ceilings: Mapping[str, int]) -> Limits:
        """These limits, with those of ``ceilings`` (by class name) for each class that has none."""
        standard = [
            ceilings[name] if ceiling is None else ceiling
            for name, ceiling in zip(STANDARD, self.ceilings, strict=True)
        ]
        custom = {name: ceiling for name, ceiling in ceilings.items() if name not in STANDARD}
        return Limits(tuple(standard), {**custom, **self.custom})

    def of(self, name: str) -> int:
        """The ceiling on a class; one that has none is limited to 2**62, because stores cannot keep larger sums."""
        ceiling = self.ceilings[_INDEX[name]] if name in _INDEX else self.custom.get(name)
        return MAX_USAGE if ceiling is None else ceiling


UNLIMITED = Limits((None,) * len(CLASSES))


def read_limits(limits: Any) -> Limits:
    """The limits that a caller sent: a mapping with ``memory_mb``, ``disk_gb``, ``vcpu`` and names of resource classes, or None
    for no limit.

    Raises InvalidInput: ``limits`` is not a mapping, a key is unknown, a limit is not a number from 0 to 2**53, or a class is
    limited under both of its names.
    """
    if limits is None:
        return UNLIMITED
    if not isinstance(limits, Mapping):
        raise InvalidInput(field="limits", reason="must be an object or null")
    ceilings: list[int | None] = [None] * len(CLASSES)
    custom: dict[str, int] = {}
    for key, value in limits.items():
        index = _INDEX.get(key)
        if index is None and not is_class_name(key):
            known = ", ".join(sorted(_LIMIT_KEYS))
            reason = f"is not a limit; the limits are {known} and names of resource classes"
            raise InvalidInput(field=f"limits.{key}", reason=reason)
        ceiling = read_limit(f"limits.{key}", value)
        if ceiling is None:
            continue
        if index is None:
            custom[str.__str__(key)] = ceiling
        elif ceilings[index] is not None:
            raise InvalidInput(field="limits", reason=f"must not limit {STANDARD[index]} under both of its names")
        else:
            ceilings[index] = ceiling
    return Limits(tuple(ceilings), custom) if custom else Limits(tuple(ceilings))


class Shortfall(msgspec.Struct, frozen=True):
    """One resource that does not fit, with the figures of the decision. ``reason``: why it could not be asked for whatever is
    free; '' if there is too little."""

    resource: str
    requested: int
    used: int
    limit: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The shortfall as answers and notifications have it; ``reason`` only if there is one."""
        said = {"resource": self.resource, "requested": self.requested, "used": self.used, "limit": self.limit}
        return {**said, "reason": self.reason} if self.reason else said


class OverCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """A resource class of which a node uses more than its capacity; the reserve is in both figures."""

    resource: str
    used: int
    capacity: int


def over_capacity(
    before: Resources, after: Resources, used: Resources, inventory: Inventory | None
) -> tuple[OverCapacity, ...]:
    """The classes of which an instance has more now than before and of which the node now has too little. ``used`` is the usage
    of the node with ``after``. None where no inventory is known."""
    if inventory is None:
        return ()
    was, total, ceilings = before.to_dict(), used.to_dict(), inventory.ceilings
    return tuple(
        OverCapacity(resource=name, used=total[name], capacity=ceilings.get(name, 0))
        for name, amount in after.items()
        if amount > was.get(name, 0) and total[name] > ceilings.get(name, 0)
    )


def too_much(amounts: Resources, used: Resources) -> str | None:
    """Why a store could not keep the usage with ``amounts`` beside what is ``used``; None: it can."""
    excess = fits(amounts, used, UNLIMITED)
    return f"the usage of {excess[0].resource} would exceed {excess[0].limit}" if excess else None


def fits(
    requested: Resources, used: Resources, limits: Limits, inventory: Inventory | None = None
) -> tuple[Shortfall, ...]:
    """Every shortfall, in the order of the resource classes; empty when the request fits. The classes and units of
    ``inventory`` count too; None: only the limits do.

    A class without a ceiling is limited to 2**62, because stores cannot keep larger sums.
    """
    if requested.custom or (inventory is not None and inventory.restricts):
        return tuple(_shortfalls(requested, used, limits, inventory))
    # Most requests; the same rule without looking for what they have not.
    short: tuple[Shortfall, ...] = ()
    for klass, want, have, ceiling in zip(CLASSES, requested.amounts, used.amounts, limits.ceilings, strict=True):
        limit = MAX_USAGE if ceiling is None else ceiling
        if 0 < want > limit - have:
            short += (Shortfall(klass.name, want, have, limit),)
    return short


def _shortfalls(
    requested: Resources, used: Resources, limits: Limits, inventory: Inventory | None
) -> Iterator[Shortfall]:
    have = used.to_dict()
    for name, want in requested.items():
        limit, reason = limits.of(name), ""
        if inventory is not None:
            offered = inventory.classes.get(name)
            if offered is None:
                limit = 0
            else:
                reason = offered.refusal(want) if want else ""
        if want and (reason or want > limit - have.get(name, 0)):
            yield Shortfall(name, want, have.get(name, 0), limit, reason)
