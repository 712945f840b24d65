# SPDX-License-Identifier: Apache-2.0
"""The topology as AsyncAPI channels with bindings of AMQP 0.3.0.

The binding has no place for a queue's arguments, nor for a queue together with the exchange that it is bound to. These are
extensions: ``x-exchange``, ``x-routing-key``, ``x-arguments``, and ``x-deployments`` with all of it for each set of options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.declarations import Broker
from tests.wire.stock import configuration
from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.settings import BrokerSettings, read_settings
from tracker_worker.conf import register_opts
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, PLAIN
from tracker_worker.notifications.notification import INFO

BINDING_VERSION = "0.3.0"
URL = "rabbit://user:password@broker.example:5672/"

DEPLOYMENTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "classic": {"[bus] queue_type": "classic"},
    "durable": {"[oslo_messaging_rabbit] amqp_durable_queues": True},
    "quorum": {"[oslo_messaging_rabbit] rabbit_quorum_queue": True},
}
"""Name -> options that are not the default. Those of [oslo_messaging_rabbit] are the same for clients and listeners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One kind of queue, for every deployment. ``messages`` are names of components; ``parameters`` are those of the address,
    with their descriptions."""

    queue: Callable[[BrokerSettings], Queue]
    title: str
    description: str
    messages: tuple[str, ...] = ()
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_HOST = {"host": {"description": "The name of a compute host, one of [tracker] hosts."}}
_TOPIC = {"topic": {"description": "One of [notifications] topics.", "default": "notifications"}}
_DIALECTS = {
    COMPUTE.option: ("compute", "Notifications of instances as Nova writes them"),
    CLOUDEVENTS.option: ("cloudevents", "Notifications as CloudEvents"),
}


def channels(requests: tuple[str, ...], notifications: Mapping[str, tuple[str, ...]]) -> dict[str, Channel]:
    """Every kind of queue that a worker declares, by a name. The arguments are names of messages, those of notifications by
    the option of their dialect."""
    return {
        "host": Channel(
            queue=lambda settings: topology.host_queue(settings, "{host}"),
            title="Requests to one host",
            description="One worker is the active consumer, the others are standbys. Only this queue keeps the order of "
            "requests. The prefix is [tracker] topic.",
            messages=requests,
            parameters=_HOST,
        ),
        "shared": Channel(
            queue=topology.shared_queue,
            title="Requests to any one worker",
            description="The name is [tracker] topic. Each message reaches one worker.",
            messages=requests,
        ),
        "fanout": Channel(
            queue=lambda settings: topology.fanout_queue(settings, "<connection>"),
            title="Requests to every worker",
            description="Publish to the exchange, with any routing key. Each worker has a queue of its own on it, whose name "
            "ends with 32 hexadecimal digits. Casts only.",
            messages=requests,
        ),
        **{
            f"notifications.{priority.lower()}": Channel(
                queue=lambda settings, priority=priority: topology.notification_queue(settings, "{topic}", priority),
                title=f"Notifications of the priority {priority}",
                description="Declared by the worker exactly as stock listeners declare it. Two consumers of one topic share "
                "its messages: give each consumer a topic of its own.",
                messages=notifications[PLAIN.option],
                parameters=_TOPIC,
            )
            for priority in sorted(set(PLAIN.queues.values()))
        },
        **{
            f"notifications.{name}": Channel(
                queue=lambda settings, name=name: topology.notification_queue(settings, f"{{{name}_topic}}", INFO),
                title=title,
                description="Declared as the queues of the other notifications are.",
                messages=notifications[option],
                parameters={f"{name}_topic": {"description": f"One of [notifications] {option}."}},
            )
            for option, (name, title) in _DIALECTS.items()
        },
        "dead-letters": Channel(
            queue=topology.dead_letter_queue,
            title="Casts that cannot be processed",
            description="The name is [bus] dead_letter_queue. The body and the properties are those of the cast.",
            messages=("dead-letter",),
        ),
        "ledger": Channel(
            queue=lambda settings: topology.ledger_queue(settings, "{host}"),
            title="Which ledger a host is served from",
            description="For workers only: the queue holds one message.",
            messages=("ledger-marker",),
            parameters=_HOST,
        ),
        "ledger-lock": Channel(
            queue=lambda settings: topology.ledger_lock_queue(settings, "{host}"),
            title="The lock on a host's ledger queue",
            description="For workers only: the connection that has this exclusive queue may write to the ledger queue.",
            parameters=_HOST,
        ),
    }


def settings_of(options: Mapping[str, Any]) -> BrokerSettings:
    """A worker's settings with these options, ``[group] name`` -> value."""
    conf = configuration(URL)
    register_opts(conf)
    for option, value in options.items():
        group, name = option[1:].split("] ")
        conf.set_override(name, value, group)
    return read_settings(conf)


def described(channel: Channel) -> dict[str, Any]:
    """The channel object. Its binding shows the default options."""
    settings = settings_of({})
    queue = channel.queue(settings)
    fanout = queue.exchange == f"{settings.topic}_fanout"
    plain: dict[str, Any] = {
        "address": queue.exchange if fanout else queue.name,
        "title": channel.title,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
    }
    if channel.parameters:
        plain["parameters"] = dict(channel.parameters)
    shown = _declared(settings, queue)
    binding: dict[str, Any] = {"is": "queue", "queue": shown["queue"], "x-exchange": shown["exchange"]}
    if fanout:
        binding = {"is": "routingKey", "exchange": shown["exchange"], "x-queue": shown["queue"]}
    binding |= {
        "bindingVersion": BINDING_VERSION,
        "x-arguments": shown["arguments"],
        "x-routing-key": queue.routing_key,
        "x-deployments": {
            name: _declared(deployed, channel.queue(deployed))
            for name, options in DEPLOYMENTS.items()
            for deployed in [settings_of(options)]
        },
    }
    return {**plain, "bindings": {"amqp": binding}}


def _declared(settings: BrokerSettings, queue: Queue) -> dict[str, Any]:
    return {
        "queue": {
            "name": queue.name,
            "durable": queue.durable,
            "exclusive": queue.exclusive,
            "autoDelete": queue.auto_delete,
        },
        "arguments": queue.arguments,
        "exchange": _exchange(settings, queue.exchange),
    }


def _exchange(settings: BrokerSettings, name: str) -> dict[str, Any]:
    """The exchange as the worker declares it, which is found out by letting it do so."""
    if not name:
        return {"name": "", "type": "default"}
    broker = Broker()
    topology.declare_exchanges(broker, settings)
    declared = broker.exchanges[name]
    return {
        "name": name,
        "type": declared["type"],
        "durable": declared["durable"],
        "autoDelete": declared["auto_delete"],
    }
