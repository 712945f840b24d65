# SPDX-License-Identifier: Apache-2.0
"""What is known of a worker at one moment, of which its health is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracker_worker.bus.base import Blocked, Contact


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``starting``: what a start waits for; empty once it is over. ``ledger_id`` None: nothing was read yet.

    ``served``: the hosts that this worker may serve; ``active``: those of them to whose queue it has been the one to listen;
    ``held``: those whose chores it does. ``refused`` and ``pending``: the hosts that another ledger owns, and those about which
    nothing is decided, each with the reason as far as it is known.

    ``contact`` None: the bus was not started. ``blocked``: the broker's alarm.
    ``unheard``, ``unanswered``: see ``hearing``. ``store_error``: empty while the store is used. ``locked``: the
    hosts whose rows another session has locked, and for how many seconds. ``stands``: for how many seconds the engine has not
    turned; None: it turns."""

    starting: str = ""
    stopping: bool = False
    ledger_id: str | None = None
    served: frozenset[str] = frozenset()
    active: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)
    contact: Contact | None = None
    blocked: Blocked | None = None
    unheard: Mapping[str, float] = field(default_factory=dict)
    unanswered: float | None = None
    store_error: str = ""
    locked: Mapping[str, float] = field(default_factory=dict)
    stands: float | None = None
