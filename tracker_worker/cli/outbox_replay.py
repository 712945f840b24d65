# SPDX-License-Identifier: Apache-2.0
"""Outbox -> broker, once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import amqp

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Store
from tracker_worker.wire.message import JSON
from tracker_worker.wire.notification import encode_notification

_PAGE = 200
_CONFIRM_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Sequences ``first`` to ``last`` of a node."""

    node_id: int
    first: int
    last: int

    @classmethod
    def of(cls, ledger: NodeLedger, first: int, last: int | None, *, published: int) -> Range:
        """``last`` None is the last one issued; ``published`` the last one that the broker has confirmed.

        Raises CommandFailed: beyond what was issued, or beyond what the worker has yet to publish. From the first
        unpublished one on it is allowed: whoever is quicker then, a consumer that drops copies sees them in order.
        """
        where = f"{ledger.host}/{ledger.name}"
        highest = last or first
        if highest > ledger.sequence:
            raise CommandFailed(f"{where} has issued sequences up to {ledger.sequence}, not {highest}")
        if first > published + 1:
            raise CommandFailed(
                f"sequences of {where} from {published + 1} on are not published yet and the worker will do it: "
                "replaying a later one would put them out of order"
            )
        return cls(node_id=ledger.id, first=first, last=last or ledger.sequence)


@dataclass(slots=True)
class Done:
    """How many notifications were sent, and which spans of sequences (both ends included) were not there."""

    sent: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)


def resend(store: Store, settings: BrokerSettings, wanted: Range) -> Done:
    """Publish what the outbox has of a range again, in order. Returns when the broker has confirmed all of it.

    Raises CommandFailed: no broker, or it went away; says from where to go on.
    """
    done = Done()
    following = wanted.first
    with connected(settings) as connection:
        topology.declare_notifications(connection, settings)
        sender = _Sender(connection, settings)
        while following <= wanted.last:
            page = store.outbox(wanted.node_id, after=following - 1, limit=_PAGE)
            page = [notification for notification in page if notification.sequence <= wanted.last]
            if not page:
                break
            for notification in page:
                if notification.sequence > following:
                    done.missing.append((following, notification.sequence - 1))
                following = notification.sequence + 1
            sender.send(page)
            done.sent += len(page)
    if following <= wanted.last:
        done.missing.append((following, wanted.last))
    return done


class _Sender:
    """Publishes a page and waits for its confirms; within a page they are pipelined."""

    def __init__(self, connection: Any, settings: BrokerSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._channel = channel = connection.channel()
        self._tag = 0
        self._unconfirmed: set[int] = set()
        self._refused = ""
        channel.confirm_select()
        channel.events["basic_ack"].add(self._acknowledged)
        channel.events["basic_nack"].add(self._not_acknowledged)
        channel.events["basic_return"].add(self._returned)

    def send(self, page: Sequence[Notification]) -> None:
        try:
            for notification in page:
                self._publish(notification)
            while self._unconfirmed:
                self._connection.drain_events(timeout=_CONFIRM_SECONDS)
        except LOST as error:
            self._refused = f"the connection to the broker was lost ({error})"
        if self._refused:
            raise CommandFailed(f"{self._refused}: go on with --from-sequence {page[0].sequence}")

    def _publish(self, notification: Notification) -> None:
        body = encode_notification(
            message_id=notification.message_id,
            publisher_id=f"tracker.{notification.host}",
            event_type=notification.event_type,
            priority=notification.priority,
            payload=notification.payload,
            occurred_at=notification.occurred_at,
        )
        for topic in self._settings.notification_topics:
            self._tag += 1
            self._unconfirmed.add(self._tag)
            self._channel.basic_publish(
                amqp.Message(body, content_type=JSON, content_encoding="utf-8", delivery_mode=2, priority=0),
                exchange=self._settings.exchange,
                routing_key=f"{topic}.{notification.priority.lower()}",
                mandatory=True,
            )

    def _acknowledged(self, tag: int, multiple: bool) -> None:
        self._unconfirmed -= {other for other in self._unconfirmed if other <= tag} if multiple else {tag}

    def _not_acknowledged(self, tag: int, multiple: bool) -> None:
        self._refused = "the broker refused a notification"
        self._acknowledged(tag, multiple)

    def _returned(self, _error: Any, _exchange: str, routing_key: str, _message: Any) -> None:
        self._refused = f"there is no queue {routing_key}"
