# SPDX-License-Identifier: Apache-2.0
"""doc/user/asyncapi.json is valid AsyncAPI, has every method, event type and queue, and says of messages what they really are.

``python -m tests.support.asyncapi`` writes it again.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import doc_story, rows
from tests.support.asyncapi.channels import DEPLOYMENTS, settings_of
from tests.support.asyncapi.document import DOCUMENT, SPECIFICATION, document
from tests.support.declarations import Broker
from tests.support.methods import VALID
from tests.wire.golden import load as load_golden
from tracker_worker.bus.amqp import topology
from tracker_worker.notifications import schema
from tracker_worker.notifications.dialects import compute
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, DIALECTS
from tracker_worker.notifications.notification import Notification
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.reply import answer, encode_reply

KEPT = json.loads(DOCUMENT.read_text(encoding="utf-8"))
_RULES = Path(__file__).parents[1] / "support" / "asyncapi" / f"asyncapi-{SPECIFICATION}.json.gz"
RULES = jsonschema.Draft7Validator(json.loads(gzip.decompress(_RULES.read_bytes())))
HOST, CONNECTION = "{host}", "<connection>"
TOPICS = {"topics": "{topic}", "compute_topics": "{compute_topic}", "cloudevents_topics": "{cloudevents_topic}"}

Change = Callable[[dict[str, Any]], None]


def resolved(told: Mapping[str, Any], reference: Mapping[str, str]) -> Any:
    """What a reference stands for. Raises KeyError: it is not there."""
    value: Any = told
    for part in reference["$ref"].removeprefix("#/").split("/"):
        value = value[part]
    return resolved(told, value) if isinstance(value, Mapping) and set(value) == {"$ref"} else value


def references(value: Any) -> Iterator[Mapping[str, str]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def lacking(told: Mapping[str, Any]) -> list[str]:
    """What the worker has and the document does not say: methods with their arguments, event types with their keys, and
    queues, exchanges and arguments of each deployment, as the worker declares them to a broker."""
    return [*_lacking_methods(told), *_lacking_events(told), *_lacking_queues(told)]


def _lacking_methods(told: Mapping[str, Any]) -> Iterator[str]:
    for name, method in METHODS.items():
        operation = told["operations"].get(name)
        if operation is None or operation["action"] != "receive":
            yield f"the method {name}"
            continue
        asked = _content(resolved(told, operation["messages"][0]))["properties"]
        arguments = asked["args"]
        if asked["method"] != {"const": name}:
            yield f"the name of {name}"
        if set(arguments["properties"]) != {*method.required, *method.optional, "host"}:
            yield f"arguments of {name}"
        if arguments["required"] != list(method.required):
            yield f"required arguments of {name}"
        for channel in ("shared", "fanout"):
            if f"request.{name}" not in told["channels"][channel]["messages"]:
                yield f"the method {name} on the channel {channel}"


def _lacking_events(told: Mapping[str, Any]) -> Iterator[str]:
    for event_type in schema.event_types():
        for channel in ("notifications.info", "notifications.warn"):
            found = told["channels"][channel]["messages"].get(event_type)
            if found is None:
                yield f"the event {event_type} on {channel}"
                continue
            payload = resolved(told, _content(resolved(told, found))["properties"]["payload"])
            published = schema.load(f"{event_type}.json")
            for key in ("required", "properties"):
                if set(payload.get(key, ())) != set(published.get(key, ())):
                    yield f"{key} of {event_type}"
        if f"cloudevents.{event_type}" not in told["channels"]["notifications.cloudevents"]["messages"]:
            yield f"the event {event_type} as a CloudEvent"
    for name in {name for equivalent in compute.EQUIVALENTS.values() for name in equivalent.names}:
        if f"compute.instance.{name}" not in told["channels"]["notifications.compute"]["messages"]:
            yield f"the event compute.instance.{name}"


def _lacking_queues(told: Mapping[str, Any]) -> Iterator[str]:
    channels = [channel["bindings"]["amqp"] for channel in told["channels"].values()]
    for deployment, options in DEPLOYMENTS.items():
        found = {
            one["queue"]["name"]: one
            for binding in channels
            if (one := binding.get("x-deployments", {}).get(deployment)) is not None
        }
        for queue in _declared(options):
            one = found.get(queue["name"])
            if one is None:
                yield f"the queue {queue['name']} of {deployment}"
                continue
            if one["arguments"] != queue["arguments"]:
                yield f"arguments of {queue['name']} of {deployment}"
            if {key: one["queue"][key] for key in queue["flags"]} != queue["flags"]:
                yield f"flags of {queue['name']} of {deployment}"
            if one["exchange"] != queue["exchange"]:
                yield f"the exchange of {queue['name']} of {deployment}"


def _declared(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a worker with these options declares to a broker: its queues and their exchanges."""
    topics = {f"[notifications] {option}": [topic] for option, topic in TOPICS.items()}
    settings, broker = settings_of({**options, **topics}), Broker()
    topology.declare_served(broker, settings, topology.served(settings, [HOST], CONNECTION))
    topology.declare_notifications(broker, settings)
    topology.declare_queue(broker, topology.ledger_queue(settings, HOST))
    topology.declare_queue(broker, topology.ledger_lock_queue(settings, HOST))
    bound = {queue: exchange for queue, exchange, _ in broker.bindings}
    for queue in broker.queues:
        exchange = bound.get(queue["queue"], "")
        made = broker.exchanges.get(exchange)
        yield {
            "name": queue["queue"],
            "arguments": queue["arguments"],
            "flags": {
                "durable": queue["durable"],
                "exclusive": queue["exclusive"],
                "autoDelete": queue["auto_delete"],
            },
            "exchange": {"name": "", "type": "default"}
            if made is None
            else {
                "name": exchange,
                "type": made["type"],
                "durable": made["durable"],
                "autoDelete": made["auto_delete"],
            },
        }


def _content(message: Mapping[str, Any]) -> Any:
    """The schema of what a message's envelope holds."""
    return message["payload"]["properties"]["oslo.message"]["contentSchema"]


def check(name: str, body: str | bytes) -> Any:
    """Check a body against the message with this name: the envelope, the text in it, and the text of a failure."""
    message = KEPT["components"]["messages"][name]
    outer = json.loads(body)
    _validate(message["payload"], outer)
    inner = json.loads(outer["oslo.message"])
    _validate(_content(message), inner)
    if isinstance(inner.get("failure"), str):
        _validate({"$ref": "#/components/schemas/failure"}, json.loads(inner["failure"]))
    return inner


def _validate(rules: Mapping[str, Any], value: Any) -> None:
    jsonschema.Draft7Validator({"components": KEPT["components"], "allOf": [rules]}).validate(value)


def test_the_document_is_current() -> None:
    assert json.loads(json.dumps(document())) == KEPT, "write it again: python -m tests.support.asyncapi"


def test_the_document_is_valid_asyncapi_with_its_bindings() -> None:
    assert KEPT["asyncapi"] == SPECIFICATION
    assert [error.message for error in RULES.iter_errors(KEPT)] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told["channels"]["host"]["bindings"]["amqp"].update(bindingVersion="0.2.0"),
        lambda told: told["channels"]["host"]["bindings"]["amqp"]["queue"].update(durable="yes"),
        lambda told: told["channels"]["fanout"]["bindings"]["amqp"].update(queue={}),
        lambda told: told["operations"]["get_node"].update(action="call"),
        lambda told: told["channels"]["host"].update(durable=True),
        lambda told: told["components"]["schemas"]["Claim"].update(type="dictionary"),
    ],
)
def test_the_rules_of_asyncapi_find_what_is_wrong(spoil: Change) -> None:
    told = copy.deepcopy(KEPT)
    spoil(told)
    assert list(RULES.iter_errors(told))


def test_every_dialect_has_a_channel() -> None:
    assert TOPICS.keys() == DIALECTS.keys()


def test_every_reference_leads_somewhere() -> None:
    found = list(references(KEPT))
    assert len(found) > len(METHODS)
    for reference in found:
        resolved(KEPT, reference)


def test_the_document_has_every_method_event_and_queue() -> None:
    assert lacking(KEPT) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda told: told["operations"].pop("get_usage"), "the method get_usage"),
        (
            lambda told: _content(told["components"]["messages"]["request.list_claims"])["properties"]["args"][
                "properties"
            ].pop("after"),
            "arguments of list_claims",
        ),
        (
            lambda told: told["channels"]["notifications.info"]["messages"].pop("tracker.usage.exists"),
            "the event tracker.usage.exists on notifications.info",
        ),
        (
            lambda told: told["components"]["schemas"]["tracker.period.closed"]["properties"].pop("exists"),
            "properties of tracker.period.closed",
        ),
        (
            lambda told: told["channels"]["notifications.cloudevents"]["messages"].pop(
                "cloudevents.tracker.node.drift"
            ),
            "the event tracker.node.drift as a CloudEvent",
        ),
        (
            lambda told: told["channels"]["notifications.compute"]["messages"].pop("compute.instance.exists"),
            "the event compute.instance.exists",
        ),
        (lambda told: told["channels"].pop("ledger"), "the queue tracker_ledger.{host} of quorum"),
        (
            lambda told: told["channels"]["host"]["bindings"]["amqp"]["x-deployments"]["classic"]["arguments"].pop(
                "x-single-active-consumer"
            ),
            "arguments of tracker.{host} of classic",
        ),
        (
            lambda told: told["channels"]["notifications.warn"]["bindings"]["amqp"]["x-deployments"]["durable"][
                "queue"
            ].update(durable=False),
            "flags of {topic}.warn of durable",
        ),
    ],
)
def test_what_lacks_is_found(change: Change, found: str) -> None:
    told = copy.deepcopy(KEPT)
    change(told)
    assert found in lacking(told)


@pytest.mark.parametrize("method", METHODS)
def test_a_request_and_its_reply_are_what_the_document_says(method: str) -> None:
    request = {"method": method, "args": VALID[method], "version": "1.1", "_context_project_id": "p"}
    check(f"request.{method}", json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(request)}))

    to = ReplyTo("reply_1", "msg-1")
    check(f"reply.{method}", encode_reply(answer(to, doc_story.answers()[method], method=method), to))


@pytest.mark.parametrize("name", ["call_begin_resource_claim", "call_timeout", "call_monitored"])
def test_requests_of_stock_clients_are_what_the_document_says(name: str) -> None:
    body = load_golden(name).body
    check(f"request.{json.loads(json.loads(body)['oslo.message'])['method']}", body)


def test_an_error_and_a_heartbeat_are_what_the_document_says() -> None:
    for name in ("reply_expected_error", "reply_heartbeat"):
        assert check("reply.begin_resource_claim", load_golden(name).body)["result"] is None
    with pytest.raises(jsonschema.ValidationError):
        check("reply.begin_resource_claim", load_golden("reply_ping").body)


@pytest.mark.parametrize("message", doc_story.samples().values(), ids=lambda message: message["event_type"])
def test_a_notification_is_what_the_document_says(message: dict[str, Any]) -> None:
    sent = {**message, "_unique_id": "0" * 32}
    check(message["event_type"], json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(sent)}))

    sent["payload"] = {**sent["payload"], "sequence": "1"}
    with pytest.raises(jsonschema.ValidationError):
        check(message["event_type"], json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(sent)}))


@pytest.mark.parametrize("row", rows.every_type().values(), ids=lambda row: row.event_type)
def test_a_notification_of_each_dialect_is_what_the_document_says(row: Notification) -> None:
    for body in COMPUTE.bodies(row):
        check(json.loads(json.loads(body)["oslo.message"])["event_type"], body)
    [body] = CLOUDEVENTS.bodies(row)
    event = KEPT["components"]["messages"][f"cloudevents.{row.event_type}"]
    assert event["contentType"] == CLOUDEVENTS.content_type
    _validate(event["payload"], json.loads(body))
