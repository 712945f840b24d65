# SPDX-License-Identifier: Apache-2.0
"""Publishing notifications that are in the outbox again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.publishing import Answer, ConfirmedPublisher, NoAnswer, Published
from tracker_worker.notifications.dialects.dialect import Unwritable
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Store, Stream

_PAGE = 200
_PAGE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Sequences ``first`` to ``last`` of a stream, both included."""

    stream_id: int
    first: int
    last: int

    @classmethod
    def of(cls, stream: Stream, first: int, last: int | None, topic: str | None = None) -> Range:
        """``last`` None means the last issued sequence, ``topic`` None every topic.

        Raises CommandFailed: the range reaches beyond the last issued sequence, or begins after the first unpublished one.
        A range may begin with the first unpublished sequence: when the worker publishes it at the same time, a consumer
        that drops copies still sees the sequences in order.
        """
        where = f"{stream.host}/{stream.node}"
        published = _published(stream, topic)
        highest = last or first
        if highest > stream.sequence:
            raise CommandFailed(f"{where} has issued sequences up to {stream.sequence}, not {highest}")
        if first > published + 1:
            raise CommandFailed(
                f"sequences of {where} from {published + 1} on are not published yet and the worker will publish them: "
                "replaying a later sequence would put the notifications out of order"
            )
        return cls(stream_id=stream.id, first=first, last=last or stream.sequence)


def _published(stream: Stream, topic: str | None) -> int:
    """The sequence up to which the worker publishes nothing any more on the topic, or on any topic if it is None."""
    if topic is None or not stream.cursors:
        return min(stream.cursors.values(), default=0)
    return stream.cursors.get(topic, stream.sequence)  # a topic that is added begins with the next notification


@dataclass(slots=True)
class Replayed:
    """How many notifications were sent, and which spans of sequences (both ends included) the outbox does not have."""

    sent: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)


def publish_again(store: Store, settings: BrokerSettings, wanted: Range) -> Replayed:
    """Publish the notifications of a range that the outbox has again, in order. Returns when the broker has confirmed all.

    Raises CommandFailed: no broker can be reached, the broker refuses or returns a notification, or the connection is lost;
    the text says from which sequence to go on.
    """
    replayed = Replayed()
    following = wanted.first
    _declare(settings)
    with connected(settings) as connection:
        publisher = ConfirmedPublisher(connection)
        while following <= wanted.last:
            page = store.outbox(wanted.stream_id, after=following - 1, limit=_PAGE, max_bytes=_PAGE_BYTES)
            page = [notification for notification in page if notification.sequence <= wanted.last]
            if not page:
                break
            for notification in page:
                if notification.sequence > following:
                    replayed.missing.append((following, notification.sequence - 1))
                following = notification.sequence + 1
            _send(publisher, settings, page)
            replayed.sent += len(page)
    if following <= wanted.last:
        replayed.missing.append((following, wanted.last))
    return replayed


def _declare(settings: BrokerSettings) -> None:
    """Declare the queues of notifications, on a connection of their own, which the broker ends for a queue that it does not
    take. Raises CommandFailed."""
    durability = Durability(settings)
    while True:
        used = durability.settings
        try:
            with connected(settings) as connection:
                topology.declare_notifications(connection, used)
            return
        except CommandFailed as failure:
            if failure.__cause__ is None or not durability.adapt(failure.__cause__, used):  # it adapts once
                raise


def _send(publisher: ConfirmedPublisher, settings: BrokerSettings, page: Sequence[Notification]) -> None:
    """Publish a page to every topic and wait for its confirms. Raises CommandFailed, which says from where to go on."""
    failure = None
    try:
        sent = [message for notification in page for message in _publish(publisher, settings, notification)]
        publisher.wait()
        failure = next((_failure(message) for message in sent if message.answer is not Answer.CONFIRMED), None)
    except (NoAnswer, Unwritable) as error:
        failure = str(error)
    except LOST as error:
        failure = f"the connection to the broker was lost ({error})"
    if failure is not None:
        raise CommandFailed(f"{failure}: go on with --from-sequence {page[0].sequence}")


def _publish(
    publisher: ConfirmedPublisher, settings: BrokerSettings, notification: Notification
) -> Iterator[Published]:
    for topic, dialect in settings.notification_topics.items():
        for body in dialect.bodies(notification):
            yield publisher.publish(
                body,
                {"content_type": dialect.content_type, "content_encoding": "utf-8", "delivery_mode": 2, "priority": 0},
                exchange=settings.exchange,
                routing_key=f"{topic}.{dialect.queues[notification.priority].lower()}",
            )


def _failure(message: Published) -> str:
    if message.answer is Answer.RETURNED:
        return f"there is no queue {message.routing_key}"
    return "the broker refused a notification"
