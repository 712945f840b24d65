# SPDX-License-Identifier: Apache-2.0
"""Making a database the ledger that a host is served from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.amqp import markers as amqp
from tracker_worker.bus.base import Markers, MarkerUnavailable
from tracker_worker.bus.settings import read_settings
from tracker_worker.cli.context import CommandFailed
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.notifications.asked import asked_by
from tracker_worker.notifications.style import read_style
from tracker_worker.service.chores.marker import Owner, owner, take
from tracker_worker.store.base import Conflict, HostRecord, Store
from tracker_worker.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """``ledger_id`` serves the host from now on. ``before``: the ledger that did; None: none, as far as can be seen.
    ``is_new_history``: the database has begun a new history for it."""

    ledger_id: str
    before: str | None
    is_new_history: bool


def adopt_host(store: Store, conf: cfg.ConfigOpts, host: str) -> Adopted:
    """Have the host served from ``store``, whatever ledger served it before.

    Raises CommandFailed: the database does not know the host, its queue has a consumer, or no broker can be reached; and
    StoreUnavailable. The host's marker is then as before, or that of ``store``.
    """
    record = store.host(host)
    if record is None:
        raise CommandFailed(f"the database has no host {host}")
    settings = read_settings(conf)
    try:
        with amqp.opened(settings, settings.urls) as markers:
            return _adopt(store, conf, record, markers)
    except MarkerUnavailable as error:
        raise CommandFailed(f"host {host} is not adopted: {error}") from error
    except Conflict as error:
        raise CommandFailed(f"host {host} is not adopted, try again: {error}") from error


def _adopt(store: Store, conf: cfg.ConfigOpts, record: HostRecord, markers: Markers) -> Adopted:
    consumers = markers.consumers(record.name)
    if consumers:
        raise CommandFailed(
            f"host {record.name} is not adopted: its queue {conf.tracker.topic}.{record.name} has "
            f"{counted(consumers, 'consumer')}; stop the worker that serves it first"
        )
    marker = None
    with suppress(MarkerUnavailable):  # its queue is empty: there is nothing that could be kept
        marker = markers.look(record.name)
    histories = store.histories()
    # With the same ledger_id the tokens do not tell which of two copies has gone further.
    is_copy = owner(marker, histories, record) in (Owner.SELF, Owner.COPY)
    if is_copy:
        begin_history(
            store,
            predecessor=histories[-1].ledger_id,
            reason=f"host adopt {record.name}",
            now=store.time(),
            new_id=NewIds(),
            notify=conf.notifications.driver == "messaging",
            style=read_style(conf),
            asked=asked_by("tracker-worker", method="host adopt"),
        )
        histories = store.histories()
    take(store, markers, histories, record, new_token=lambda: str(threads.new_uuid()), force=True)
    return Adopted(
        ledger_id=histories[-1].ledger_id,
        before=None if marker is None else marker.ledger_id,
        is_new_history=is_copy,
    )
