# SPDX-License-Identifier: Apache-2.0
"""The AsyncAPI document of a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.asyncapi import messages
from tests.support.asyncapi.channels import BINDING_VERSION, DEPLOYMENTS, channels, described
from tests.support.asyncapi.shapes import Shapes
from tracker_worker.notifications import schema
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, PLAIN
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.wire.versions import VERSION

DOCUMENT = Path(__file__).parents[3] / "doc" / "user" / "asyncapi.json"
SPECIFICATION = "3.0.0"
_DESCRIPTION = (
    "The messages of tracker-worker over AMQP 0-9-1, as oslo.messaging exchanges them: RPC requests and replies, and "
    "notifications. Names of queues and exchanges are those of the default options. Requests and replies may also be msgpack "
    "(application/x-msgpack), without the envelope. doc/user/rpc.md and doc/user/notifications.md say more."
)
_DELIVERY = {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": BINDING_VERSION}}


def document() -> dict[str, Any]:
    """The document, made anew from the method table, the client's types, the schemas and the topology."""
    shapes = Shapes(messages.component(""))
    events = {event_type: messages.notification(event_type) for event_type in sorted(schema.event_types())}
    compute = {name: messages.compute(name, told) for name, told in messages.compute_types().items()}
    cloudevents = {f"cloudevents.{event_type}": messages.cloud_event(event_type) for event_type in events}
    requests = {f"request.{method}": messages.request(method, shapes) for method in METHODS}
    replies = {f"reply.{method}": messages.reply(method, shapes) for method in METHODS}
    notifications = {
        PLAIN.option: tuple(events),
        COMPUTE.option: tuple(compute),
        CLOUDEVENTS.option: tuple(cloudevents),
    }
    kinds = channels(tuple(requests), notifications)
    return {
        "asyncapi": SPECIFICATION,
        "info": {
            "title": "tracker-worker",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "broker.example:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The broker of [DEFAULT] transport_url.",
            }
        },
        "channels": {
            **{name: described(channel) for name, channel in kinds.items()},
            "replies": {
                "address": None,
                "title": "Replies to one client",
                "description": "The client declares this queue, and names it in each call. [bus] reply_queue_prefixes says "
                "with what its name must begin.",
                "messages": {name: _ref("messages", name) for name in replies},
                "bindings": {
                    "amqp": {"is": "queue", "queue": {"name": "reply_<unique>"}, "bindingVersion": BINDING_VERSION}
                },
            },
        },
        "operations": {
            **{method: _method(method) for method in METHODS},
            "shared": _receive("shared", tuple(requests)),
            "fanout": _receive("fanout", tuple(requests)),
            **{name: _send(name, kind.messages) for name, kind in kinds.items() if name.startswith("notifications.")},
            "dead-letters": _send("dead-letters", ("dead-letter",)),
        },
        "components": {
            "schemas": {**messages.bases(), **shapes.named, **messages.payloads()},
            "messages": {
                **requests,
                **replies,
                **events,
                **compute,
                **cloudevents,
                "dead-letter": messages.dead_letter(),
                "ledger-marker": messages.ledger_marker(),
            },
        },
        "x-deployments": {name: dict(options) for name, options in DEPLOYMENTS.items()},
    }


def _method(method: str) -> dict[str, Any]:
    """A method on the topic of a host."""
    return {
        "action": "receive",
        "title": method,
        "channel": _ref("channels", "host"),
        "messages": [_in_channel("host", f"request.{method}")],
        "reply": {
            "address": {
                "location": "$message.payload#/oslo.message/_reply_q",
                "description": "The queue that the call names; casts are not answered.",
            },
            "channel": _ref("channels", "replies"),
            "messages": [_in_channel("replies", f"reply.{method}")],
        },
    }


def _receive(channel: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": _ref("channels", channel),
        "messages": [_in_channel(channel, name) for name in names],
    }


def _send(channel: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {**_receive(channel, names), "action": "send", "bindings": _DELIVERY}


def _ref(*place: str) -> dict[str, str]:
    if place[0] in ("messages", "schemas"):
        place = ("components", *place)
    return {"$ref": "#/" + "/".join(place)}


def _in_channel(channel: str, name: str) -> dict[str, str]:
    return _ref("channels", channel, "messages", name)
