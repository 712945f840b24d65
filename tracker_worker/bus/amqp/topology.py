# SPDX-License-Identifier: Apache-2.0
"""Every exchange, queue and argument on the broker, and which queues a worker consumes.

Names and types are those that stock oslo.messaging clients expect (tests/wire/golden, declares_*). Exchanges are declared
passively first: a client whose durability differs from that of an existing exchange cannot use the exchange, so the clients'
exchange is left as it is. Each declaration has a channel of its own, because a refused declaration closes its channel.

A queue that somebody else has declared needs no right to configure it: where the broker refuses to declare a queue, the queue
is looked for, bound and used as it is. Looking alone would not find out that a queue has other arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from amqp.exceptions import (
    AccessRefused,
    ChannelError,
    InternalError,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)

from tracker_worker.bus.amqp import refusals
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.bus.settings import BrokerSettings

LOG = logging.getLogger(__name__)

# The worker counts its own attempts: the broker's count also rises for messages that were only prefetched. The queue has a
# limit all the same: without one, RabbitMQ 3.10 returns messages to the back of the queue.
_DELIVERY_LIMIT = 1_000_000
PING_REPLIES = "reply_ledger_"
"""How the queues begin in which a worker waits for another one's answer to a ping."""
# What the broker says of a queue that does not exist; of one whose node is down it says something else, with the same code.
_NO_QUEUE = "no queue "
_NO_CONSUMER = {"x-priority": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue to declare and bind. ``source`` becomes the source of its deliveries."""

    name: str
    source: str
    exchange: str = ""
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


def host_queue(settings: BrokerSettings, host: str) -> Queue:
    """``<topic>.<host>``: one consumer is active, the others are standbys."""
    name = f"{settings.topic}.{host}"
    arguments = {"x-single-active-consumer": True, **_typed(settings)}
    return Queue(name=name, source=host, exchange=settings.exchange, routing_key=name, arguments=arguments)


def shared_queue(settings: BrokerSettings) -> Queue:
    """``<topic>``: each message reaches any one worker."""
    return Queue(
        name=settings.topic,
        source=SHARED,
        exchange=settings.exchange,
        routing_key=settings.topic,
        arguments=_typed(settings),
    )


def fanout_queue(settings: BrokerSettings, unique: str) -> Queue:
    """A queue of one connection alone on the exchange ``<topic>_fanout``: each message reaches every worker. ``unique`` ends
    its name."""
    return Queue(
        name=f"{settings.topic}_fanout_{unique}",
        source=FANOUT,
        exchange=f"{settings.topic}_fanout",
        durable=False,
        exclusive=True,
        auto_delete=True,
    )


def ledger_queue(settings: BrokerSettings, host: str) -> Queue:
    """``<topic>_ledger.<host>``: one message, which names the ledger that the host is served from (see ``markers``)."""
    return Queue(name=f"{settings.topic}_ledger.{host}", source=host, arguments=_typed(settings))


def ledger_lock_queue(settings: BrokerSettings, host: str) -> Queue:
    """The queue of the connection that may write to the ledger's queue."""
    name = f"{settings.topic}_ledger_lock.{host}"
    return Queue(name=name, source=host, durable=False, exclusive=True, auto_delete=True)


def dead_letter_queue(settings: BrokerSettings) -> Queue:
    return Queue(name=settings.dead_letter_queue, source=SHARED, arguments=_typed(settings))


def watch_queue(settings: BrokerSettings, unique: str) -> str:
    """The name of the exclusive queue of a command that listens. No host's queue is called so."""
    return f"{settings.topic}_watch_{unique}"


def notification_queue(settings: BrokerSettings, topic: str, priority: str) -> Queue:
    """``<topic>.<priority>``, exactly as stock listeners declare it, where the broker takes that (see ``durability``)."""
    name = f"{topic}.{priority.lower()}"
    arguments = {"x-queue-type": "quorum", **settings.quorum_limits} if settings.quorum else {}
    return Queue(
        name=name,
        source=SHARED,
        exchange=settings.exchange,
        routing_key=name,
        durable=settings.declares_durable,
        auto_delete=settings.auto_delete,
        arguments=arguments,
    )


def _typed(settings: BrokerSettings) -> dict[str, Any]:
    # There is no x-dead-letter-exchange: calls that expire while no worker runs would fill the dead-letter queue.
    return {"x-queue-type": "quorum", "x-delivery-limit": _DELIVERY_LIMIT} if settings.queue_type == "quorum" else {}


def served(settings: BrokerSettings, hosts: Sequence[str], unique: str) -> list[Queue]:
    """The queues that a worker consumes; ``unique`` is for the name of its fanout queue."""
    return [*(host_queue(settings, host) for host in hosts), shared_queue(settings), fanout_queue(settings, unique)]


def declare_served(
    connection: Any, settings: BrokerSettings, queues: Sequence[Queue], *, reported: Collection[str] = ()
) -> list[Queue]:
    """Declare and bind ``queues`` and everything that they need. Returns what ``declare_queues`` returns."""
    declare_exchanges(connection, settings)
    declare_shared(connection, dead_letter_queue(settings))
    return declare_queues(connection, queues, reported=reported)


def declare_exchanges(connection: Any, settings: BrokerSettings) -> list[str]:
    """Declare the exchanges that requests come through. Returns the names of those that did not exist."""
    gone = []
    if declare_control_exchange(connection, settings):
        gone.append(settings.exchange)
    fanout = f"{settings.topic}_fanout"
    if declare_exchange(connection, fanout, "fanout", durable=settings.durable_fanout, auto_delete=True):
        gone.append(fanout)
    return gone


def declare_control_exchange(connection: Any, settings: BrokerSettings) -> bool:
    """Declare the exchange of requests and notifications. Returns whether it did not exist. Raises what refuses a notification
    queue because it is neither durable nor exclusive: then the exchange is to be durable (see ``durability``)."""
    return declare_exchange(
        connection,
        settings.exchange,
        "topic",
        durable=settings.declares_durable,
        auto_delete=settings.auto_delete,
        first=None if settings.declares_durable else lambda: _try_transient(connection, settings),
    )


def _try_transient(connection: Any, settings: BrokerSettings) -> None:
    """Find out whether the broker takes the notification queues, before an exchange is made that suits them."""
    for queue in published(settings)[1:2]:
        with suppress(ChannelError):  # this is found out when the queue is declared
            declare_queue(connection, replace(queue, exchange=""), report=False)


def declare_queues(connection: Any, queues: Sequence[Queue], *, reported: Collection[str] = ()) -> list[Queue]:
    """Declare and bind ``queues``. Returns those that the broker refuses: they have other arguments, belong to another
    connection, or are on a node that is down. Each is logged, unless its name is in ``reported``."""
    in_doubt: Sequence[Queue] = [queue for queue in queues if queue.name in reported]
    try:
        _declare_at_once(connection, [queue for queue in queues if queue.name not in reported])
    except ChannelError:
        in_doubt = queues  # one by one, to find out which one it is
    refused = []
    for queue in in_doubt:
        try:
            declare_queue(connection, queue, report=queue.name not in reported)
        except ChannelError:
            refused.append(queue)
    return refused


def missing(connection: Any, queues: Sequence[Queue]) -> list[Queue]:
    """Those of the queues that do not exist."""
    if _exist(connection, queues):
        return []
    return [queue for queue in queues if not _exist(connection, [queue])]


def _exist(connection: Any, queues: Sequence[Queue]) -> bool:
    try:
        with _channel(connection) as channel:
            for number, queue in enumerate(queues, 1):
                channel.queue_declare(queue.name, passive=True, nowait=number < len(queues))
    except NotFound:
        return False
    return True


def empty(connection: Any, queues: Sequence[Queue]) -> list[Queue]:
    """Those of the queues that have no message that is ready for a consumer, or do not exist. One that is on a node which is
    down is not empty."""
    found = []
    while queues:
        looked = 0
        try:
            with _channel(connection) as channel:
                for queue in queues:
                    if channel.queue_declare(queue.name, passive=True).message_count == 0:
                        found.append(queue)
                    looked += 1
        except ChannelError as error:
            if isinstance(error, NotFound) and _NO_QUEUE in str(error):
                found.extend(queues[looked : looked + 1])
        queues = queues[looked + 1 :]
    return found


def bind(connection: Any, queues: Sequence[Queue]) -> None:
    """Bind queues that exist. Raises NotFound: one does not, or an exchange does not."""
    with _channel(connection) as channel:
        for number, queue in enumerate(queues, 1):
            channel.queue_bind(queue.name, queue.exchange, queue.routing_key, nowait=number < len(queues))


def published(settings: BrokerSettings) -> list[Queue]:
    """The queues that a worker publishes to and declares: those of dead letters and of notifications."""
    notifications = [
        notification_queue(settings, topic, priority)
        for topic, dialect in settings.notification_topics.items()
        for priority in dict.fromkeys(dialect.queues.values())
    ]
    return [dead_letter_queue(settings), *notifications]


def declare_notifications(connection: Any, settings: BrokerSettings) -> None:
    """Declare the queues of notifications, so that none is lost before the first listener declares its queue."""
    declare_control_exchange(connection, settings)
    for queue in published(settings):
        if queue.exchange:
            declare_shared(connection, queue)


def declare_again(connection: Any, settings: BrokerSettings, name: str) -> None:
    """Declare and bind one of the queues that are published to, and the exchange that it is bound to, which may be gone as
    well. Raises what the broker refuses."""
    (queue,) = (queue for queue in published(settings) if queue.name == name)
    if queue.exchange:
        declare_control_exchange(connection, settings)
    declare_shared(connection, queue)


def declare_shared(connection: Any, queue: Queue) -> None:
    """Declare a queue that the worker only publishes to.

    A listener, or another [bus] queue_type, may have made it with other options: the queue is used if it exists, and bound.
    Raises what the broker refuses for another reason.
    """
    try:
        declare_queue(connection, queue, report=False)
    except PreconditionFailed as error:
        LOG.warning("queue %s exists with other options than ours, used as it is: %s", queue.name, error)
        if queue.exchange:
            with _channel(connection) as channel:
                channel.queue_bind(queue.name, queue.exchange, queue.routing_key)


def declare_exchange(
    connection: Any,
    name: str,
    type: str,
    *,
    durable: bool,
    auto_delete: bool = False,
    first: Callable[[], None] | None = None,
) -> bool:
    """Declare the exchange where it does not exist, after ``first``. Returns whether it did not."""
    try:
        with _channel(connection) as channel:
            channel.exchange_declare(name, type, passive=True)
        return False
    except NotFound:
        if first is not None:
            first()
        with _channel(connection) as channel:
            channel.exchange_declare(name, type, durable=durable, auto_delete=auto_delete)
        return True


def _declare_at_once(connection: Any, queues: Sequence[Queue]) -> None:
    """Declare without waiting for each answer: a thousand hosts would be thousands of round trips."""
    with _channel(connection) as channel:
        for queue in queues:
            _declare(channel, queue, nowait=True)
        for queue in queues[-1:]:
            _declare(channel, queue)  # the broker answers in order


def _declare(channel: Any, queue: Queue, *, nowait: bool = False) -> None:
    channel.queue_declare(
        queue.name,
        durable=queue.durable,
        exclusive=queue.exclusive,
        auto_delete=queue.auto_delete,
        arguments=queue.arguments,
        nowait=nowait,
    )
    if queue.exchange:
        channel.queue_bind(queue.name, queue.exchange, queue.routing_key, nowait=nowait)


def declare_queue(connection: Any, queue: Queue, *, report: bool = True) -> None:
    """Declare and bind a queue; one that this user may not declare is looked for and bound.

    Raises ChannelError: the broker refuses it, which is logged if ``report`` is true."""
    try:
        try:
            with _channel(connection) as channel:
                _declare(channel, queue)
        except AccessRefused as refused:
            _use(connection, queue, refused)
    except PreconditionFailed as error:
        if report:
            LOG.error(
                "queue %s exists with other arguments (left by a stock server, or by another [bus] queue_type): stop what "
                "publishes to it, let it drain, and delete it with 'rabbitmqctl delete_queue %s'. The broker says: %s",
                queue.name,
                queue.name,
                error,
            )
        raise
    except ChannelError as error:
        if report:
            LOG.error("queue %s cannot be declared and is not served: %s", queue.name, error)
        raise


def _use(connection: Any, queue: Queue, refused: AccessRefused) -> None:
    """Bind a queue that this user may not declare. Raises ``refused``: there is no such queue; ChannelError."""
    try:
        with _channel(connection) as channel:
            channel.queue_declare(queue.name, passive=True)
            if queue.exchange:
                channel.queue_bind(queue.name, queue.exchange, queue.routing_key)
    except NotFound:
        raise refused from None


def may_consume(connection: Any, name: str) -> bool:
    """Whether this user may read a queue. Nothing is consumed: the broker looks at the right first, and then refuses a priority
    that is no number."""
    channel = connection.channel()
    try:
        channel.basic_consume(name, arguments=_NO_CONSUMER)
    except AccessRefused as error:
        if f"'{name}'" not in str(error):
            raise _consumers_gone(error) from error
        return False
    except ChannelError:
        return True
    finally:
        channel.close()
    return True


@contextmanager
def _channel(connection: Any) -> Iterator[Any]:
    """A channel for one declaration."""
    try:
        channel = connection.channel()
        try:
            yield channel
        except ChannelError as error:
            channel.close()  # the broker has closed it, and py-amqp has opened another one under its number
            if refusals.transient_queue_refused(error):
                # RabbitMQ ends the connection for such a queue: nobody has to know both ways.
                raise InternalError(error.reply_text, error.method_sig) from error
            raise
        channel.close()
    except ChannelError as error:
        if refusals.consumer_ended(error):
            raise _consumers_gone(error) from error
        raise


def _consumers_gone(error: ChannelError) -> RecoverableConnectionError:
    """The error of the consumers' channel has come while the answer on another one was waited for: whoever asks there must not
    take it for an answer."""
    return RecoverableConnectionError(error.reply_text, error.method_sig, reply_code=error.reply_code)
