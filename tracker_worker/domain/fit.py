# SPDX-License-Identifier: Apache-2.0
"""The one capacity rule: a request fits a limit if and only if ``requested <= limit - used``.

The limit is a ceiling on total usage, and ``used`` includes the host's reserve. The physical total is not enforced, so
the free amount may be negative. A request for 0 of a resource does not raise its usage and always fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.resources import CLASSES, MAX_USAGE, Resources
from tracker_worker.domain.values import read_limit
from tracker_worker.errors import InvalidInput

_LIMIT_KEYS = {klass.limit: index for index, klass in enumerate(CLASSES)}


class Limits(msgspec.Struct, frozen=True):
    """The ceilings of a claim in the order of the resource classes; None means no ceiling."""

    ceilings: tuple[int | None, ...]

    @property
    def given(self) -> bool:
        """Whether at least one resource class has a ceiling."""
        return any(ceiling is not None for ceiling in self.ceilings)

    def completed(self, totals: Resources) -> Limits:
        """These limits, with the amount in ``totals`` as the ceiling of each class that has none."""
        return Limits(
            tuple(
                total if ceiling is None else ceiling
                for ceiling, total in zip(self.ceilings, totals.amounts, strict=True)
            )
        )


UNLIMITED = Limits((None,) * len(CLASSES))


def read_limits(limits: Any) -> Limits:
    """The limits that a caller sent: a mapping with ``memory_mb``, ``disk_gb`` and ``vcpu``, or None for no limit.

    Raises InvalidInput: ``limits`` is not a mapping, a key is unknown, or a limit is not a number from 0 to 2**53.
    """
    if limits is None:
        return UNLIMITED
    if not isinstance(limits, Mapping):
        raise InvalidInput(field="limits", reason="must be an object or null")
    ceilings: list[int | None] = [None] * len(CLASSES)
    for key, value in limits.items():
        if key not in _LIMIT_KEYS:
            known = ", ".join(sorted(_LIMIT_KEYS))
            raise InvalidInput(field=f"limits.{key}", reason=f"is not a limit; the limits are {known}")
        ceilings[_LIMIT_KEYS[key]] = read_limit(f"limits.{key}", value)
    return Limits(tuple(ceilings))


class Shortfall(msgspec.Struct, frozen=True):
    """One resource that does not fit its limit, with the figures of the decision."""

    resource: str
    requested: int
    used: int
    limit: int

    def to_dict(self) -> dict[str, Any]:
        return {"resource": self.resource, "requested": self.requested, "used": self.used, "limit": self.limit}


def fits(requested: Resources, used: Resources, limits: Limits) -> tuple[Shortfall, ...]:
    """Every shortfall, in the order of the resource classes; empty when the request fits.

    A class without a ceiling is limited to 2**62, because stores cannot keep larger sums.
    """
    short: tuple[Shortfall, ...] = ()
    for klass, want, have, ceiling in zip(CLASSES, requested.amounts, used.amounts, limits.ceilings, strict=True):
        limit = MAX_USAGE if ceiling is None else ceiling
        if 0 < want > limit - have:
            short += (Shortfall(klass.name, want, have, limit),)
    return short
