# SPDX-License-Identifier: Apache-2.0
"""Whether this worker may serve one host, as far as is known, and why not."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

from tracker_worker.bus.base import Marker
from tracker_worker.service.chores.marker import Owner
from tracker_worker.store.base import HostRecord, serving

LOG = logging.getLogger(__name__)

# A host that is not served is looked at this often; one about which nothing is decided more often.
REFUSED_SECONDS = 5.0
PENDING_SECONDS = 1.0
# A consumer may have begun just before its worker has written the lease.
_DOUBT_SECONDS = 2.0
# The reason why a host is not served is logged again after this time.
_REMIND_SECONDS = 60.0
# For so long a marker that cannot be seen is nothing to report.
_UNSEEN_SECONDS = 5.0


class Standing(enum.Enum):
    """What is known about a host."""

    PENDING = "pending"
    SERVED = "served"
    REFUSED = "refused"


@dataclass(slots=True, kw_only=True)
class HostStanding:
    """One host. Times are in seconds on the monotonic clock.

    ``looked``: its marker was looked at since the present connection was opened. ``proven``: this process has found that this
    database is the one that the host is served from. ``renewed``: this process has renewed the token. ``unwritten``: this
    process has made an empty marker, because the broker took no messages. ``ledger_id``: what the marker names while the host
    is served. ``copy_of``: the marker at a time when a worker with another database was alive behind the host's queue."""

    name: str
    standing: Standing = Standing.PENDING
    looked: bool = False
    proven: bool = False
    renewed: bool = False
    look_at: float = 0.0
    pending_since: float | None = None
    doubted_since: float | None = None
    lease_seen: int | None = None
    unwritten: bool = False
    ledger_id: str = ""
    copy_of: tuple[Marker | None] | None = None
    reason: str = ""
    reported_at: float = float("-inf")

    def serve(self, ledger_id: str) -> None:
        """This worker serves the host, whose marker names ``ledger_id``."""
        if self.standing is Standing.REFUSED:
            LOG.info("host %s is served from this worker's ledger now", self.name)
        self.standing, self.looked, self.proven = Standing.SERVED, True, True
        self.pending_since = self.doubted_since = self.lease_seen = self.copy_of = None
        self.reason, self.ledger_id = "", ledger_id

    def wait(self, now: float, reason: str) -> None:
        """Nothing is decided: look again soon. What a served host delivers waits meanwhile, but the host is not served any more
        after five seconds."""
        self.look_at = now + PENDING_SECONDS
        if self.pending_since is None:
            self.pending_since = now
        unseen = now >= self.pending_since + _UNSEEN_SECONDS
        if self.standing is Standing.SERVED and unseen:
            self.standing = Standing.PENDING
        self.looked = self.standing is not Standing.SERVED
        if unseen and self.standing is Standing.PENDING:
            self._report(now, logging.WARNING, reason)

    def refuse(self, now: float, reason: str) -> None:
        """This worker does not serve the host."""
        self.standing, self.looked, self.proven, self.renewed = Standing.REFUSED, True, False, False
        self.look_at = now + REFUSED_SECONDS
        self.pending_since = None
        self._report(now, logging.ERROR, reason)

    def _report(self, now: float, level: int, reason: str) -> None:
        if reason != self.reason or now >= self.reported_at + _REMIND_SECONDS:
            LOG.log(level, "host %s is not served: %s", self.name, reason)
            self.reason, self.reported_at = reason, now

    def is_same_database(self, record: HostRecord, *, own: str, at: int, now: float) -> bool | None:
        """Whether the consumer of the host's queue works on this database; None: look again.

        It does if a lease of another worker than ``own`` is renewed here while this worker watches: a copy keeps the lease as
        it was. It does not if there is no such lease at ``at`` (microseconds).
        """
        if serving(record, at) not in (None, own):
            self.doubted_since = None
            if self.lease_seen is None:
                self.lease_seen = record.lease_expires_at
            return True if record.lease_expires_at != self.lease_seen else None
        if self.doubted_since is None:
            self.doubted_since = now
        return False if now >= self.doubted_since + _DOUBT_SECONDS else None


def foreign(found: Owner, marker: Marker | None, own: str, host: str) -> str:
    """Why a host is not served whose marker names another ledger than ``own``, and the cure."""
    named = "none" if marker is None else marker.ledger_id
    if found is Owner.COPY:
        return (
            f"the ledger {named} serves it, and this worker's database is an earlier copy of that ledger ({own}); to serve the "
            f"host from this copy, as a new history: tracker-worker host adopt {host}"
        )
    return (
        f"the ledger {named} serves it, and this worker's ledger is {own}; to serve the host from this worker's ledger: "
        f"tracker-worker host adopt {host}"
    )


def copied(marker: Marker | None, own: str, host: str) -> str:
    """Why a host is not served whose queue is consumed by a worker on another database, and the cure."""
    named = "no ledger" if marker is None else f"the ledger {marker.ledger_id}"
    return (
        f"{named} serves it, and the worker that consumes its queue has no lease in the database of this worker's ledger "
        f"{own}: that worker has another database, of which this one is a copy, or which is a copy of this one; once that "
        f"worker is stopped for good: tracker-worker host adopt {host}"
    )
