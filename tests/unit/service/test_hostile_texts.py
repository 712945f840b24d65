# SPDX-License-Identifier: Apache-2.0
"""A text from outside is printable and short wherever it is quoted: in the log, in an error, in the reason of a dead letter."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from tests.support.builders import HOST, instance_dict
from tests.support.engine import EngineHarness
from tracker_worker import errors
from tracker_worker.wire.message import JSON, MSGPACK

TEXTS = {
    "escape sequences": "\x1b[2J\x1b]0;title\x07",
    "direction of writing": "\u202egnp.exe\u2066",
    "NUL": "a\0b",
    "line breaks": "x\n2026-01-01 ERROR forged\r\n\x85\u2028",
    "surrogate": "\ud800",
    "invisible": "\u200b\ufeff\U000e0041",
    "long": "x" * 900_000,
    "long escapes": "\x1b" * 140_000,
    "format": "%s %d {0} {field!r} %(asctime)s",
}
BEGIN = {"instance": instance_dict(), "limits": {"vcpu": 1}}
# Where the text stands in the message: method, arguments, other keys.
TEXT = object()
PLACES: dict[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "method": (TEXT, {}, {}),
    "argument": ("get_node", {TEXT: 1}, {}),
    "node": ("get_node", {"node": TEXT}, {}),
    "host": ("get_node", {"host": TEXT}, {}),
    "claim": ("finish_resource_claim", {"claim_id": TEXT}, {}),
    "project": ("get_usage", {"project_id": TEXT}, {}),
    "limit": ("begin_resource_claim", {**BEGIN, "limits": {TEXT: 1}}, {}),
    "timeout": ("begin_resource_claim", {**BEGIN, "timeout": TEXT}, {}),
    "node of an instance": ("begin_resource_claim", {"instance": instance_dict(node=TEXT)}, {}),
    **{
        f"instance.{name}": ("begin_resource_claim", {"instance": instance_dict(**{name: TEXT})}, {})
        for name in ("uuid", "vm_state", "task_state", "project_id", "display_name", "created_at", "vcpus", "metadata")
    },
    "key of the metadata": ("begin_resource_claim", {"instance": instance_dict(metadata={TEXT: float("inf")})}, {}),
    "path in the metadata": ("begin_resource_claim", {"instance": instance_dict(metadata={"a": [{TEXT: 2**63}]})}, {}),
    "update": ("update_usage", {"instance": {"uuid": TEXT}}, {}),
    "version": ("get_node", {}, {"version": TEXT}),
    "version in a list": ("get_node", {}, {"version": [TEXT]}),
    "namespace": ("get_node", {}, {"namespace": TEXT}),
    "request id": ("begin_resource_claim", BEGIN, {"_context_request_id": TEXT}),
    "request id of a refused request": ("get_node", {"node": "no"}, {"_context_request_id": TEXT}),
    "project of the context": (
        "begin_resource_claim",
        {"instance": instance_dict(project_id=None)},
        {"_context_project_id": TEXT},
    ),
    "message id": ("get_node", {}, {"_msg_id": TEXT, "_reply_q": "reply_1"}),
    "reply queue": ("get_node", {}, {"_msg_id": "m", "_reply_q": TEXT}),
    "unique id": ("get_node", {}, {"_unique_id": TEXT}),
}
# What only an envelope or a header says.
OUTSIDE = ["envelope", "content type", "compression"]


def filled(value: Any, text: str) -> Any:
    if value is TEXT:
        return text
    if isinstance(value, dict):
        return {filled(key, text): filled(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, text) for item in value]
    return copy.deepcopy(value)


def messages(place: str, text: str) -> Iterator[tuple[bytes, str, dict[str, Any]]]:
    """Bodies with their content types and headers."""
    if place in OUTSIDE:
        version, content_type, headers = "2.0", JSON, {}
        if place == "envelope":
            version = text
        elif place == "content type":
            content_type = text
        else:
            headers = {"compression": text}
        yield json.dumps({"oslo.version": version, "oslo.message": "{}"}).encode(), content_type, headers
        return
    method, arguments, keys = PLACES[place]
    message = {
        "method": filled(method, text),
        "args": filled(arguments, text),
        "version": "1.0",
        "_context_request_id": "req-1",
        **filled(dict(keys), text),
    }
    yield json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode(), JSON, {}
    if "\ud800" not in text and place != "key of the metadata":  # msgspec writes neither of them
        yield msgspec.msgpack.encode(message), MSGPACK, {}


def check_text(text: str, most: int) -> None:
    assert all(line.isprintable() for line in text.split("\n")), text[:300]
    assert len(text) <= most


@pytest.mark.parametrize("place", [*PLACES, *OUTSIDE])
def test_what_a_request_quotes_is_printable_and_short(
    place: str, harness: EngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for text in TEXTS.values():
        for body, content_type, headers in messages(place, text):
            harness.broker.publish(HOST, body, content_type=content_type, headers=headers)
    harness.caller.call("oslo_rpc_server_ping").reply()
    harness.finish()

    for record in caplog.records:
        check_text(record.getMessage(), 5000)
        assert record.exc_info is None
        # Of a record of decisions each line is one decision.
        if record.name == "tracker_worker.decisions" and record.levelno == logging.INFO:
            assert all(" node=" in line for line in record.getMessage().split("\n"))
    while not harness.broker.parked.empty():
        reason = harness.broker.parked.get().headers["x-tracker-reason"]
        check_text(reason, 1000)
        assert "\n" not in reason


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("error", errors.TrackerError.__subclasses__())
def test_the_text_of_every_error_is_printable(error: type[errors.TrackerError], text: str) -> None:
    facts = ("instance_uuid", "node", "reason", "field", "host", "method", "how", "limit", "bytes")

    for made in (error(**dict.fromkeys(facts, text)), error(text), error(unknown=text)):
        check_text(str(made), 1000)
        assert "\n" not in str(made)
    assert error(**dict.fromkeys(facts, text)).kwargs == dict.fromkeys(facts, text)
