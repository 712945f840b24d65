# SPDX-License-Identifier: Apache-2.0
"""Hosts that another ledger owns, as their markers on the broker say (see doc/admin/operate.md, One host, one ledger).

On a quorum queue each look counts as a delivery, and over a limit the broker drops the message. A marker is therefore not
looked at where the database says that one of its workers serves the host: that worker has looked itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracker_worker.bus.amqp import markers
from tracker_worker.bus.base import MarkerUnavailable
from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.subjects import Broker, Database
from tracker_worker.service.chores.marker import MAY_SERVE, Owner, owner
from tracker_worker.store.base import History, HostRecord, serving
from tracker_worker.text import printable

_MOST_HOSTS = 50


def check_markers(broker: Broker, database: Database) -> Iterator[Problem]:
    """No host of the configuration belongs to another ledger."""
    store = database.store
    histories, now = store.histories(), store.time()
    records = {record.name: record for record in store.hosts()}
    hosts = [host for host in broker.installation.conf.tracker.hosts if not _is_served(records.get(host), now)]
    if not hosts:
        return
    with markers.opened(broker.settings, [broker.url]) as found:
        for host in hosts[:_MOST_HOSTS]:
            yield from _judge(broker, found, host, histories, records.get(host))


def _is_served(record: HostRecord | None, now: int) -> bool:
    return record is not None and serving(record, now) is not None


def _judge(
    broker: Broker, found: markers.AMQPMarkers, host: str, histories: list[History], record: HostRecord | None
) -> Iterator[Problem]:
    queue = f"{broker.settings.topic}_ledger.{host}"
    cure = broker.installation.command("host", "adopt", host)
    try:
        seen = found.peek(host)
    except MarkerUnavailable as problem:
        yield warning(f"which ledger owns host {host} of [tracker] hosts cannot be seen: {problem}", cure)
        return
    if seen is None:
        return
    ledger_id = histories[-1].ledger_id
    whose = _owner(seen, histories, record)
    if whose is Owner.COPY:
        yield error(
            f"host {host} of [tracker] hosts is not served: the database of [database] connection is an earlier copy of the "
            f"ledger {ledger_id} that owns the host (queue {queue})",
            cure,
        )
    elif whose not in MAY_SERVE:
        yield error(
            f"host {host} of [tracker] hosts is owned by the ledger {printable(seen.written.ledger_id)} (queue {queue}), and "
            f"not served from that of [database] connection, {ledger_id}. Stop the worker that serves it first",
            cure,
        )
    elif seen.looks >= markers.MOST_LOOKS:
        yield warning(
            f"the marker of host {host} in the queue {queue} was looked at {seen.looks} times since a worker has written "
            f"it, which it does after {markers.MOST_LOOKS} looks: with a delivery limit from a policy the broker would drop it",
            broker.installation.serve,
        )


def _owner(seen: markers.Seen, histories: list[History], record: HostRecord | None) -> Owner:
    if record is not None:
        return owner(seen.marker, histories, record)
    # The host is new here: its marker has no token that this database has given.
    known = any(history.ledger_id == seen.written.ledger_id for history in histories)
    return Owner.PREDECESSOR if known else Owner.ANOTHER
