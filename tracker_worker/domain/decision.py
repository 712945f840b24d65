# SPDX-License-Identifier: Apache-2.0
"""The outcome of a command, as a value."""

from __future__ import annotations

from typing import Any

import msgspec

from tracker_worker.domain import events
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.errors import TrackerError


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a command. The caller applies each of ``events`` to its ledger, in order and in one commit, and sends
    ``reply`` or ``error`` after the commit. ``node`` is the node that the command was about, if it was about one.
    ``whole_host``: it rests on all nodes of its host, and not only on those that it changes."""

    node: NodeLedger | None = None
    events: tuple[tuple[NodeLedger, events.Event], ...] = ()
    reply: Any = None
    error: TrackerError | None = None
    whole_host: bool = False


NOTHING = Decision()


def decided(
    node: NodeLedger,
    *happened: events.Event,
    reply: Any = None,
    error: TrackerError | None = None,
    whole_host: bool = False,
) -> Decision:
    """A decision about one node."""
    told = tuple([(node, event) for event in happened])
    return Decision(node=node, events=told, reply=reply, error=error, whole_host=whole_host)
