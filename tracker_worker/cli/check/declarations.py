# SPDX-License-Identifier: Apache-2.0
"""Exchanges and queues that exist with other arguments than the worker, or the clients with its options, declare."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from amqp.exceptions import ChannelError, PreconditionFailed

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.cli.check.broker_rights import exchange_difference
from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.subjects import Broker

# What RabbitMQ says of a declaration that does not fit: "inequivalent arg 'durable' for queue ...: received 'false' but
# current is 'true'"; values of a table have more words around them.
_DIFFERENCE = re.compile(r"inequivalent arg '(?P<argument>[^']+)'.*? but current is (?P<current>.*?)$", re.DOTALL)
_VALUE = re.compile(r"'([^']*)'")
_RABBIT = "[oslo_messaging_rabbit]"
_MOST_HOSTS = 200


def check_declarations(broker: Broker) -> Iterator[Problem]:
    """What exists has the arguments with which it is declared again."""
    settings = broker.settings
    yield from _exchange(broker, settings.exchange, "topic", durable=settings.durable, option="amqp_durable_queues")
    yield from _exchange(
        broker,
        f"{settings.topic}_fanout",
        "fanout",
        durable=settings.durable_fanout,
        option="rabbit_transient_quorum_queue",
    )
    for host in broker.installation.conf.tracker.hosts[:_MOST_HOSTS]:
        yield from _served(broker, topology.host_queue(settings, host), f"host {host} is not served")
    yield from _served(broker, topology.shared_queue(settings), "requests to any worker are not served")
    dead_letters, *notifications = topology.published(settings)
    found = _difference(broker, dead_letters)
    if found is not None:
        yield warning(
            f"the dead-letter queue {dead_letters.name} exists with another {_told(found)}, and is used as it is",
            _own_cure(broker, dead_letters, found),
        )
    for queue in notifications:
        yield from _notifications(broker, queue)


def _exchange(broker: Broker, name: str, type: str, *, durable: bool, option: str) -> Iterator[Problem]:
    """Stock clients declare the exchange. One that is not durable they use as it is, whatever their options say."""
    if not broker.has_exchange(name):
        return
    refused = exchange_difference(broker, name, type, durable=durable, auto_delete=_is_auto_delete(broker, name))
    found = _read(refused)
    if found is None:
        return
    argument, current = found
    if argument == "durable":
        if current == "true":
            yield error(
                f"the exchange {name} is durable, and {_RABBIT} {option} is false: each call of a stock client with these "
                "options fails with MessageDeliveryFailure",
                f"{_RABBIT} {option} = true",
            )
        return
    yield error(
        f"the exchange {name} exists with another {_told(found)}: stock clients cannot use it",
        shlex.join(["rabbitmqadmin", f"--vhost={broker.vhost}", "delete", "exchange", f"name={name}"]),
    )


def _is_auto_delete(broker: Broker, name: str) -> bool:
    return True if name.endswith("_fanout") else broker.settings.auto_delete


def _served(broker: Broker, queue: Queue, consequence: str) -> Iterator[Problem]:
    found = _difference(broker, queue)
    if found is not None:
        yield error(
            f"the queue {queue.name} exists with another {_told(found)}: {consequence}. It was left by a stock server, or by "
            f"another [bus] queue_type (now {broker.settings.queue_type})",
            _own_cure(broker, queue, found),
        )


def _own_cure(broker: Broker, queue: Queue, found: tuple[str, str]) -> str:
    if found[0] in ("x-queue-type", "x-delivery-limit"):
        return f"[bus] queue_type = {'classic' if broker.settings.queue_type == 'quorum' else 'quorum'}"
    return broker.ctl("delete_queue", queue.name)


def _notifications(broker: Broker, queue: Queue) -> Iterator[Problem]:
    """Stock listeners declare these queues too: with other options than those of the queue they cannot listen to it."""
    found = _difference(broker, queue)
    if found is None:
        return
    argument, current = found
    if argument == "durable":
        cure = f"{_RABBIT} amqp_durable_queues = {current}"
    elif argument == "x-queue-type":
        cure = f"{_RABBIT} rabbit_quorum_queue = {'true' if current == 'quorum' else 'false'}"
    elif argument == "auto_delete":
        cure = f"{_RABBIT} amqp_auto_delete = {current}"
    else:
        cure = broker.ctl("delete_queue", queue.name)
    yield warning(
        f"the notification queue {queue.name} exists with another {_told(found)}: a consumer with the options of {_RABBIT} "
        "here cannot listen to it",
        cure,
    )


def _difference(broker: Broker, queue: Queue) -> tuple[str, str] | None:
    """The first argument in which a queue that exists differs, and the value that it has. A declaration of what exists changes
    nothing. None: no difference, no such queue, or no right to ask."""
    if broker.count(queue.name) is None:
        return None
    return _read(
        broker.refusal(
            lambda channel: channel.queue_declare(
                queue.name,
                durable=queue.durable,
                exclusive=queue.exclusive,
                auto_delete=queue.auto_delete,
                arguments=queue.arguments,
            )
        )
    )


def _read(refused: ChannelError | None) -> tuple[str, str] | None:
    found = _DIFFERENCE.search(str(refused)) if isinstance(refused, PreconditionFailed) else None
    if found is None:
        return None
    value = _VALUE.search(found["current"])
    return found["argument"], value[1] if value else "none"


def _told(found: tuple[str, str]) -> str:
    return f"{found[0]} ({found[1]})"
