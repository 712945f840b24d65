# SPDX-License-Identifier: Apache-2.0
"""The rights of the worker's user on the broker, found out without leaving anything behind.

The broker looks at the right before it looks at the rest of a request (measured with RabbitMQ 3.10). Each right is therefore
asked for with a request that fails afterwards, or that changes nothing:

- to configure: a declaration with an argument that no queue or exchange can have. 406 means that it was permitted.
- to write to an exchange: a message in a transaction that is rolled back. No queue ever gets it.
- to bind, which needs to write to the queue and to read from the exchange, with the topic: taking back a binding that does not
  exist, because of an argument that no other has.
- to consume: a consumer with a priority that is no number. 406 or 404 means that it was permitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from amqp.exceptions import AccessRefused, PreconditionFailed

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.cli.check.findings import Problem, enumerated, error
from tracker_worker.cli.check.login import permissions
from tracker_worker.cli.check.publishing import refused_to_publish
from tracker_worker.cli.check.subjects import Broker
from tracker_worker.text import counted
from tracker_worker.threads import new_uuid

# Each host is some fifteen requests.
MOST_HOSTS = 20
_MOST_NAMED = 12
_NO_QUEUE = {"x-dead-letter-exchange": 0}
_NO_EXCHANGE = {"alternate-exchange": 0}
_NO_CONSUMER = {"x-priority": "none"}


def check_rights(broker: Broker) -> Iterator[Problem]:
    """The user may do all that a worker of these hosts does."""
    missing = [*_missing(broker), *_missing_to_publish(broker)]
    if missing:
        yield error(
            f"user {broker.user} ([DEFAULT] transport_url) lacks {counted(len(missing), 'right')} in the virtual host "
            f"{broker.vhost}: {enumerated(missing, _MOST_NAMED)}",
            permissions(broker.installation, broker.user, broker.vhost),
        )


def _missing(broker: Broker) -> Iterator[str]:
    settings, unique = broker.settings, new_uuid().hex
    hosts = broker.installation.conf.tracker.hosts[:MOST_HOSTS]
    fanout = f"{settings.topic}_fanout"
    for exchange in (settings.exchange, fanout):
        if not broker.has_exchange(exchange) and not may_configure_exchange(broker, exchange):
            yield f"to configure the exchange {exchange}"
    consumed = topology.served(settings, hosts, unique)
    for queue in (*consumed, *topology.published(settings)):
        yield from _missing_to_declare(broker, queue, unique)
    for queue in consumed:
        if _refuses(broker, _consuming(queue.name)):
            yield f"to read from the queue {queue.name}"
    for host in hosts:
        marker, lock = topology.ledger_queue(settings, host), topology.ledger_lock_queue(settings, host)
        if broker.count(marker.name) is None and not may_configure_queue(broker, marker.name):
            yield f"to configure the queue {marker.name}"
        if _refuses(broker, _consuming(marker.name)):
            yield f"to read from the queue {marker.name}"
        if not may_configure_queue(broker, lock.name):
            yield f"to configure the queue {lock.name}"
    replies = f"reply_ledger_{unique}"
    if not may_configure_queue(broker, replies):
        yield f"to configure queues reply_ledger_<random> (reply_ledger_{unique[:4]}...)"
    if _refuses(broker, _consuming(replies)):
        yield f"to read from queues reply_ledger_<random> (reply_ledger_{unique[:4]}...)"


def _missing_to_declare(broker: Broker, queue: Queue, unique: str) -> Iterator[str]:
    """A queue that exists need not be declared; it is bound in any case."""
    if broker.count(queue.name) is None and not may_configure_queue(broker, queue.name):
        yield f"to configure the queue {queue.name}"
    if queue.exchange and _refuses(broker, _binding(queue, unique)):
        key = f" with the key {queue.routing_key}" if queue.routing_key else ""
        yield f"to bind the queue {queue.name} (write) to the exchange {queue.exchange} (read){key}"


def _missing_to_publish(broker: Broker) -> Iterator[str]:
    for exchange, key in refused_to_publish(broker, _published(broker)):
        yield f"to write to the exchange {exchange or 'amq.default'}" + (f" with the key {key}" if exchange else "")


def _published(broker: Broker) -> Sequence[tuple[str, str]]:
    """Exchange and routing key of what a worker publishes; '' is the default exchange, through which replies go."""
    settings = broker.settings
    hosts = broker.installation.conf.tracker.hosts[:MOST_HOSTS]
    queues = [*(topology.host_queue(settings, host) for host in hosts), topology.shared_queue(settings)]
    queues += [queue for queue in topology.published(settings) if queue.exchange]
    return [("", f"tracker-check-{new_uuid().hex}"), *((queue.exchange, queue.routing_key) for queue in queues)]


def may_configure_queue(broker: Broker, name: str) -> bool:
    """Whether the user may declare a queue of this name. None is declared."""
    return not _refuses(
        broker, lambda channel: channel.queue_declare(name, durable=True, auto_delete=False, arguments=_NO_QUEUE)
    )


def may_configure_exchange(broker: Broker, name: str) -> bool:
    """Whether the user may declare an exchange of this name. None is declared."""
    return not isinstance(exchange_difference(broker, name, "topic", durable=False, auto_delete=False), AccessRefused)


def exchange_difference(
    broker: Broker, name: str, type: str, *, durable: bool, auto_delete: bool
) -> AccessRefused | PreconditionFailed | None:
    """What the broker says of the declaration of an exchange: how the one that exists differs, or that the user may not declare
    it; None: it does not differ, or does not exist. None is declared."""
    refused = broker.refusal(
        lambda channel: channel.exchange_declare(
            name, type, durable=durable, auto_delete=auto_delete, arguments=_NO_EXCHANGE
        )
    )
    if isinstance(refused, PreconditionFailed) and "alternate-exchange" in str(refused):
        return None  # the argument is what differs, after everything else
    return refused if isinstance(refused, AccessRefused | PreconditionFailed) else None


def _refuses(broker: Broker, request: Callable[[Any], object]) -> bool:
    return isinstance(broker.refusal(request), AccessRefused)


def _consuming(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.basic_consume(queue, arguments=_NO_CONSUMER)


def _binding(queue: Queue, unique: str) -> Callable[[Any], object]:
    arguments = {"x-tracker-check": unique}
    return lambda channel: channel.queue_unbind(queue.name, queue.exchange, queue.routing_key, arguments=arguments)
