# SPDX-License-Identifier: Apache-2.0
"""The life of a node: what is known of it, and the state that follows."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

OPEN = "open"
UNKNOWN = "unknown"
UNSUPPORTED = "unsupported"
STALE = "stale"
MISSING = "missing"
DRAINING = "draining"
RETIRED = "retired"
STATES = (OPEN, UNKNOWN, UNSUPPORTED, STALE, MISSING, DRAINING, RETIRED)

ANSWERED = "answered"
NOTHING = "nothing"
FAILED = "failed"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has done to a node. ``since`` in microseconds."""

    reason: str
    since: int


class Life(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a node, apart from its inventory and what it is charged.

    ``look``: what came of the last look at the node: its driver answered, answered nothing, or failed; None: nobody has looked.
    ``silent_since``: the first look that brought no inventory since the last one that did; ``silent_reason``: why the last one
    brought none. ``listed``: whether the driver lists the node. ``elsewhere``: another host that has a node of this name which
    its driver no longer lists, and which is charged. Times are in microseconds.

    ``state``, ``reason`` and ``since`` follow from these (see ``renewed``).
    """

    look: str | None = None
    silent_since: int | None = None
    silent_reason: str = ""
    listed: bool = True
    elsewhere: str | None = None
    draining: Mark | None = None
    retired: Mark | None = None
    state: str = UNKNOWN
    reason: str = ""
    since: int = 0

    @property
    def is_named_by_default(self) -> bool:
        """Whether a claim that names no node may mean this one."""
        return self.state in (OPEN, STALE, DRAINING)


def renewed(life: Life, *, has_inventory: bool, at: int) -> Life:
    """``life`` with the state that follows from the rest of it, since ``at`` if it is another one."""
    state, reason = _state(life, has_inventory)
    if (state, reason) == (life.state, life.reason) and life.since:
        return life
    return replace(life, state=state, reason=reason, since=life.since if state == life.state and life.since else at)


def _state(life: Life, has_inventory: bool) -> tuple[str, str]:
    if life.retired is not None:
        return RETIRED, life.retired.reason
    if life.draining is not None:
        return DRAINING, life.draining.reason
    if not life.listed:
        return MISSING, "the driver does not list the node"
    if life.elsewhere is not None:
        return UNKNOWN, f"host {life.elsewhere} has a charged node of this name: move it here with 'node move'"
    if has_inventory:
        return (OPEN, "") if life.silent_since is None else (STALE, life.silent_reason)
    if life.look == NOTHING:
        return UNSUPPORTED, "the driver reports no inventory"
    return UNKNOWN, life.silent_reason
