# SPDX-License-Identifier: Apache-2.0
"""The record of a move: an instance that is charged a second time, for another size or at another place."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tracker_worker.domain.instance import Instance
from tracker_worker.domain.resources import Resources

RESIZE = "resize"
MIGRATION = "migration"
LIVE_MIGRATION = "live_migration"
EVACUATION = "evacuation"
KINDS = (RESIZE, MIGRATION, LIVE_MIGRATION, EVACUATION)
HOLDING = (RESIZE, MIGRATION)
"""The kinds after whose hand-over the source holds what it was charged, for a revert."""

BEGUN = "begun"
FINISHED = "finished"
CONFIRMED = "confirmed"
REVERTED = "reverted"
ABORTED = "aborted"
EXPIRED = "expired"
FAILED = "failed"
STATES = (BEGUN, EXPIRED, FAILED, FINISHED, ABORTED, REVERTED, CONFIRMED)
"""In the order in which one can follow another."""
ENDED = (CONFIRMED, REVERTED, ABORTED)
KEPT = (FAILED, FINISHED, CONFIRMED)
"""The states of a move that was handed over and not reverted. A move can also fail before the hand-over."""

FINISH = "finish"
CONFIRM = "confirm"
REVERT = "revert"
ABORT = "abort"
FAIL = "fail"
STEPS = (FINISH, CONFIRM, REVERT, ABORT, FAIL)


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What one host knows of a move.

    ``resources`` is what is charged at the destination, ``old_resources`` what was charged at the source; None: unknown. Times
    are in microseconds, 0 until then: ``finished_at``, the hand-over, and ``ended_at`` are effective times. ``arrives`` and
    ``leaves``: this host is the destination, and the source. ``open``: it is charged for what is incoming or on hold.
    ``allocation_id`` and ``instance`` are those of the charge at the destination: '' on a host that is only the source, and
    None there and after the hand-over. ``left_claim_id`` is that of the claim that the source has handed over; '': none.
    """

    id: str
    kind: str
    instance_uuid: str
    from_host: str | None
    from_node: str | None
    to_host: str
    to_node: str
    resources: Resources
    old_resources: Resources | None
    state: str
    begun_at: int
    expires_at: int
    limit_source: str
    on_expiry: str | None = None
    finished_at: int = 0
    ended_at: int = 0
    arrives: bool = False
    leaves: bool = False
    open: bool = False
    allocation_id: str = ""
    instance: Instance | None = None
    left_claim_id: str = ""

    @property
    def ended(self) -> bool:
        """Whether no step changes it any more."""
        return self.state in ENDED

    @property
    def handed_over(self) -> bool:
        """Whether the destination has the instance, by this record."""
        return self.finished_at > 0 and self.state in KEPT

    @property
    def has_left(self) -> bool:
        """Whether, by this record, the instance has left the host, which had it under a claim."""
        return bool(self.left_claim_id) and not self.arrives and self.handed_over


def when_left(move: Move) -> tuple[int, str]:
    """The order of moves by which an instance has left a host."""
    return move.finished_at, move.id


def furthest(moves: Iterable[Move]) -> list[Move]:
    """Of several hosts' records, one of each move: that on which it has got furthest, and of equal ones the destination's. By
    id."""
    found: dict[str, Move] = {}
    for move in moves:
        known = found.get(move.id)
        if known is None or _progress(move) > _progress(known):
            found[move.id] = move
    return [found[move_id] for move_id in sorted(found)]


def _progress(move: Move) -> tuple[int, bool]:
    return STATES.index(move.state), move.arrives
