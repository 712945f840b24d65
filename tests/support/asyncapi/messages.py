# SPDX-License-Identifier: Apache-2.0
"""Requests, replies and notifications as AsyncAPI messages.

oslo.messaging puts each message as JSON text into an envelope. A schema of draft 7 says that with ``contentMediaType``; what
the text holds is in ``contentSchema``, as in later drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from tests.support.asyncapi.channels import BINDING_VERSION
from tests.support.asyncapi.shapes import Schema, Shapes, paragraphs
from tracker_worker import errors
from tracker_worker.client.api import TrackerAPI
from tracker_worker.notifications import schema
from tracker_worker.notifications.dialects import cloudevents as cloudevents_dialect
from tracker_worker.notifications.dialects import compute as compute_dialect
from tracker_worker.notifications.notification import PRIORITIES
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.wire import versions

BASES = {"instance.json": "payload.instance", "move.json": "payload.move", "node.json": "payload.node"}
"""The files that other schemas of notifications refer to -> their names as components."""

_TEXT = {"type": "string"}
_UNIQUE_ID = {"type": "string", "description": "Different for each sending."}
_CORRELATED = {"location": "$message.payload#/oslo.message/_msg_id"}


def component(name: str) -> str:
    """What refers to the schema with this name."""
    return f"#/components/schemas/{name}"


def enveloped(content: Schema) -> Schema:
    """The schema of a body whose text holds ``content``."""
    return {
        "type": "object",
        "required": ["oslo.version", "oslo.message"],
        "properties": {
            "oslo.version": {"const": "2.0"},
            "oslo.message": {"type": "string", "contentMediaType": "application/json", "contentSchema": content},
        },
    }


def message(title: str, description: str, base: str, content: Schema, **more: Any) -> dict[str, Any]:
    """A message of oslo.messaging whose text holds ``content`` and what the schema ``base`` says."""
    return {
        "title": title,
        "description": description,
        "payload": enveloped({"allOf": [{"$ref": component(base)}], **content}),
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": BINDING_VERSION}},
        **more,
    }


def arguments(method: str, shapes: Shapes) -> Schema:
    """The arguments of a method: their names from the worker's table, their types from the client's method."""
    row = METHODS[method]
    hints = get_type_hints(getattr(TrackerAPI, method))
    known = {name: shapes.schema(hints[name]) for name in (*row.required, *row.optional)}
    newer = versions.ARGUMENTS.get(method, {})
    for name, minor in newer.items():
        known[name]["description"] = f"Since version {versions.MAJOR}.{minor}."
    known["host"] = {"type": ["string", "null"], "description": "Required on a topic that is not of one host."}
    if row.any_host:
        known["host"]["description"] = (
            "On a topic that is not of one host: null stands for all hosts that the worker serves."
        )
    return {"type": "object", "required": list(row.required), "properties": known, "additionalProperties": False}


def result(method: str, shapes: Shapes) -> Schema:
    """What a call of the method answers."""
    return shapes.schema(get_type_hints(getattr(TrackerAPI, method))["return"])


def request(method: str, shapes: Shapes) -> dict[str, Any]:
    since = f"{versions.MAJOR}.{versions.METHODS[method]}"
    content = {"properties": {"method": {"const": method}, "args": arguments(method, shapes)}}
    called = getattr(TrackerAPI, method)
    return message(method, paragraphs(called), "request", content, correlationId=_CORRELATED, **{"x-since": since})


def reply(method: str, shapes: Shapes) -> dict[str, Any]:
    # A failure or a heartbeat has no result.
    answered = {"anyOf": [result(method, shapes), {"type": "null"}]}
    content = {"properties": {"result": answered}}
    text = "The result of the call, or its failure."
    return message(f"The reply to {method}", text, "reply", content, correlationId=_CORRELATED)


def notification(event_type: str) -> dict[str, Any]:
    head = {"publisher_id": {"pattern": "^tracker\\."}, "event_type": {"const": event_type}}
    content = {"properties": {**head, "payload": {"$ref": component(event_type)}}}
    return message(event_type, schema.load(f"{event_type}.json")["description"], "notification", content)


def compute_types() -> dict[str, list[str]]:
    """Each event type of the dialect of Nova, and the event types of ours that become it."""
    found: dict[str, list[str]] = {}
    for event_type, equivalent in compute_dialect.EQUIVALENTS.items():
        for name in equivalent.names:
            found.setdefault(f"compute.instance.{name}", []).append(event_type)
    return found


def compute(name: str, told: list[str]) -> dict[str, Any]:
    """The message of an event type of the dialect of Nova, which stands for these of ours."""
    head = {"publisher_id": {"pattern": "^compute\\."}, "event_type": {"const": name}}
    content = {"properties": {**head, "payload": {"$ref": component(BASES["instance.json"])}}}
    return message(name, f"What was told by {' or '.join(told)}, with its payload.", "notification", content)


def cloud_event(event_type: str) -> dict[str, Any]:
    attributes = {
        "specversion": {"const": "1.0"},
        "id": {**_TEXT, "format": "uuid", "description": "The message_id of the notification."},
        "source": {**_TEXT, "pattern": "^/tracker/", "description": "/tracker/<region, or ledger_id>/<host>/<node>"},
        "type": {"const": event_type},
        "subject": {**_TEXT, "description": "The project. Not there if there is none."},
        "time": {**_TEXT, "format": "date-time", "description": "occurred_at"},
        "dataschema": {"const": cloudevents_dialect.schema_uri(event_type)},
        "sequence": {**_TEXT, "pattern": "^[0-9]{20}$", "description": "The number of the notification, of its node."},
        "partitionkey": {**_TEXT, "description": "<host>/<node>"},
        "data": {"$ref": component(event_type)},
    }
    return {
        "title": event_type,
        "description": schema.load(f"{event_type}.json")["description"],
        "contentType": cloudevents_dialect.CONTENT_TYPE,
        "payload": {
            "type": "object",
            "required": [name for name in attributes if name != "subject"],
            "properties": attributes,
            "additionalProperties": False,
        },
    }


def bases() -> dict[str, Schema]:
    """What all requests, all replies and all notifications have in common, and what the text of a failure holds."""
    return {
        "request": {
            "type": "object",
            "required": ["method", "args"],
            "properties": {
                "method": _TEXT,
                "args": {"type": "object"},
                "version": {**_TEXT, "description": "x-since, or a higher one for what is newer in the arguments."},
                "namespace": {"type": "null"},
                "_msg_id": {**_TEXT, "description": "The id of a call. A cast has none."},
                "_reply_q": {**_TEXT, "description": "The queue for the reply to a call, on the default exchange."},
                "_timeout": {
                    "type": ["number", "null"],
                    "description": "Not null: the caller wants a heartbeat at least that often, in seconds.",
                },
                "_unique_id": {**_TEXT, "description": "A copy with the same id is done once, and answered alike."},
            },
            "patternProperties": {
                "^_context_": {"description": "The request context; project_id, user_id and request_id are read."}
            },
        },
        "reply": {
            "type": "object",
            "required": ["result", "failure", "ending", "_msg_id", "_unique_id"],
            "properties": {
                "result": {},
                "failure": {
                    "type": ["string", "null"],
                    "description": "Not null: the call has failed; then the result is null.",
                    "contentMediaType": "application/json",
                    "contentSchema": {"$ref": component("failure")},
                },
                "ending": {"type": "boolean", "description": "false: a heartbeat; the call is still being processed."},
                "_msg_id": {**_TEXT, "description": "That of the call."},
                "_unique_id": _UNIQUE_ID,
            },
        },
        "notification": {
            "type": "object",
            "required": ["message_id", "publisher_id", "event_type", "priority", "timestamp", "payload", "_unique_id"],
            "properties": {
                "message_id": {**_TEXT, "format": "uuid", "description": "The same in every copy of the notification."},
                "publisher_id": _TEXT,
                "event_type": _TEXT,
                "priority": {
                    "enum": list(PRIORITIES),
                    "description": "INFO, unless [notifications] warn_events names the event type.",
                },
                "timestamp": {**_TEXT, "description": "When it happened, UTC: YYYY-MM-DD HH:MM:SS.ffffff."},
                "payload": {"type": "object"},
                "_unique_id": _UNIQUE_ID,
            },
        },
        "failure": _failure(),
    }


def payloads() -> dict[str, Schema]:
    """The schemas of all notifications as components."""
    files = {**BASES, **{f"{event_type}.json": event_type for event_type in schema.event_types()}}
    return {name: _as_component(schema.load(file)) for file, name in files.items()}


def _as_component(value: Any) -> Any:
    """The schema without its own identity, with references to components."""
    if isinstance(value, list):
        return [_as_component(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: component(BASES[item]) if key == "$ref" else _as_component(item)
        for key, item in value.items()
        if key not in ("$schema", "$id")
    }


def _failure() -> Schema:
    return {
        "type": "object",
        "description": "An error as oslo.messaging's client raises it again: class(*args, **kwargs) of the module.",
        "required": ["class", "module", "message", "tb", "args", "kwargs"],
        "properties": {
            "class": {**_TEXT, "description": "One of x-errors, or of the errors of oslo.messaging: NoSuchMethod, "
            "UnsupportedVersion. RuntimeError: the worker's log says why."},
            "module": _TEXT,
            "message": _TEXT,
            "tb": {"type": "array", "items": _TEXT},
            "args": {"type": "array"},
            "kwargs": {"type": "object", "description": "The facts of the error."},
            "reason": {**_TEXT, "description": "Code and message."},
        },
        "x-errors": {error.__name__: error.code for error in errors.TrackerError.__subclasses__()},
    }  # fmt: skip


def dead_letter() -> dict[str, Any]:
    headers = {
        "x-tracker-reason": "The code and the text of the error.",
        "x-tracker-exchange": "The exchange that the cast came from.",
        "x-tracker-routing-key": "Its routing key.",
        "x-tracker-time": "When it was parked, UTC.",
    }
    return {
        "title": "A parked cast",
        "description": "The body is byte for byte that of the cast, of any content type, and may be anything.",
        "headers": {
            "type": "object",
            "required": list(headers),
            "properties": {name: {**_TEXT, "description": text} for name, text in headers.items()},
        },
    }


def ledger_marker() -> dict[str, Any]:
    return {
        "title": "Which ledger serves the host",
        "description": "For workers only.",
        "payload": {
            "type": "object",
            "required": ["ledger_id", "token", "number"],
            "properties": {"ledger_id": _TEXT, "token": _TEXT, "number": {"type": "integer"}},
        },
    }
