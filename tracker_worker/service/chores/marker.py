# SPDX-License-Identifier: Apache-2.0
"""One host, one ledger: what a host's marker on the broker says about a database, and how the marker is taken.

A copy of a database has the same ledger_id as its original. The token tells them apart: each start of the worker that serves a
host renews it, first in the database and then on the broker. A crash in between leaves the token before it on the broker,
which the database still knows; an earlier copy knows neither.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from contextlib import suppress

from tracker_worker.bus.base import Marker, Markers, MarkerUnavailable
from tracker_worker.store.base import History, HostRecord, Store


class Owner(enum.Enum):
    """Which ledger a marker names, as seen from a database."""

    NOBODY = "nobody"
    """There is no marker: no ledger owns the host."""
    SELF = "self"
    """This database, in its present history."""
    PREDECESSOR = "predecessor"
    """An earlier history of this database, which is therefore its successor."""
    COPY = "copy"
    """The history of this database, but a later start than this database knows: it is an earlier copy."""
    ANOTHER = "another"
    """A history that this database does not know."""


NO_SUCH_HOST = "the database has no such host any more"
MAY_SERVE = frozenset((Owner.NOBODY, Owner.SELF, Owner.PREDECESSOR))
"""Where the database may serve the host, unless a consumer of another database does."""


def owner(marker: Marker | None, histories: Sequence[History], record: HostRecord) -> Owner:
    """Say whose the marker is. ``histories`` and ``record`` are the database's, the present history last."""
    if marker is None:
        return Owner.NOBODY
    if marker.ledger_id == histories[-1].ledger_id:
        return Owner.SELF if marker.token in (record.token, record.previous_token) else Owner.COPY
    known = any(history.ledger_id == marker.ledger_id for history in histories)
    return Owner.PREDECESSOR if known else Owner.ANOTHER


def take(
    store: Store,
    markers: Markers,
    histories: Sequence[History],
    record: HostRecord,
    *,
    new_token: Callable[[], str],
    made_empty: bool = False,
    force: bool = False,
) -> bool:
    """Renew the token of a host in the database, and then write the marker. Return whether this was done: not where the marker
    has become that of another ledger. ``histories`` and ``record`` as for ``owner``. ``made_empty``: the caller has made a
    marker that is empty. ``force``: write it whatever is there.

    Raises MarkerUnwritten, MarkerUnavailable, StoreUnavailable: the marker is as before, or the new one. A database that was
    the owner still is. A host that the database no longer has is MarkerUnavailable, too.
    """
    with markers.locked(record.name):
        # Whoever held the lock before may have renewed the token: the database keeps two, and that on the broker must be one.
        present = store.host(record.name)
        if present is None:
            raise MarkerUnavailable(NO_SUCH_HOST)
        record = present
        marker = None
        with suppress(*([MarkerUnavailable] if made_empty or force else [])):
            marker = markers.look(record.name)
        found = owner(marker, histories, record)
        if found not in MAY_SERVE and not force:
            return False
        ledger_id = histories[-1].ledger_id
        if found is Owner.SELF and marker is not None and record.token is not None and record.token != marker.token:
            # A start was broken off between database and broker. The database keeps two tokens, and must not need three.
            markers.write(record.name, Marker(ledger_id=ledger_id, token=record.token))
        token = new_token()
        try:
            store.renew_token(record.id, token)
        except LookupError:
            raise MarkerUnavailable(NO_SUCH_HOST) from None
        markers.write(record.name, Marker(ledger_id=ledger_id, token=token))
        return True
