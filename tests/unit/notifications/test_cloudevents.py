# SPDX-License-Identifier: Apache-2.0
"""Every row is one CloudEvent, which the CloudEvents SDK reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq
from cloudevents.core.formats.json import JSONFormat
from msgspec.structs import replace

from tests.support.rows import every_type, exists
from tracker_worker.notifications.dialects.dialect import Unwritable
from tracker_worker.notifications.dialects.table import CLOUDEVENTS
from tracker_worker.notifications.notification import INFO, WARN, Notification

ROWS = every_type()
DIGITS = 20


def body(row: Notification) -> bytes:
    [only] = CLOUDEVENTS.bodies(row)
    return only


def changed(row: Notification, **payload: Any) -> Notification:
    return replace(row, payload=json.dumps({**json.loads(row.payload), **payload}).encode())


@pytest.mark.parametrize("event_type", sorted(ROWS))
def test_the_sdk_reads_an_event_of_every_type(event_type: str) -> None:
    row = ROWS[event_type]
    message = RabbitMQMessage(headers={}, content_type=CLOUDEVENTS.content_type, body=body(row))
    event = from_rabbitmq(message, JSONFormat())
    payload = json.loads(row.payload)
    subject = {"subject": payload["tenant_id"]} if payload.get("tenant_id") else {}
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": row.message_id,
        "source": f"/tracker/{payload['ledger_id']}/{row.host}/{row.node}",
        "type": event_type,
        **subject,
        "time": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "dataschema": f"urn:tracker-worker:schema:{event_type}",
        "sequence": str(row.sequence).zfill(DIGITS),
        "partitionkey": f"{row.host}/{row.node}",
    }
    assert event.get_data() == payload
    assert JSONFormat().read(None, JSONFormat().write(event)).get_attributes() == event.get_attributes()


def test_the_payload_is_the_data_byte_for_byte_and_each_attempt_is_the_same() -> None:
    row = ROWS["tracker.claim.begun"]
    assert body(row).endswith(b',"data":' + row.payload + b"}")
    assert body(row) == body(row)


def test_the_source_begins_with_the_region_if_there_is_one() -> None:
    row = changed(ROWS["tracker.node.updated"], region="north")
    assert json.loads(body(row))["source"] == f"/tracker/north/{row.host}/{row.node}"


def test_a_source_is_a_uri_reference_whatever_the_names_are() -> None:
    row = replace(changed(ROWS["tracker.claim.begun"], region="Zürich 1/2"), host="h#1", node="rack 1/n?")
    event = json.loads(body(row))
    assert event["source"] == "/tracker/Z%C3%BCrich%201%2F2/h%231/rack%201%2Fn%3F"
    assert event["partitionkey"] == "h#1/rack 1/n?"


def test_what_belongs_to_no_project_has_no_subject() -> None:
    assert "subject" not in json.loads(body(ROWS["tracker.node.updated"]))
    assert "subject" not in json.loads(body(changed(ROWS["tracker.claim.begun"], tenant_id="")))


def test_the_longest_number_has_twenty_digits() -> None:
    sequence = json.loads(body(replace(ROWS["tracker.claim.begun"], sequence=2**63 - 1)))["sequence"]
    assert (len(sequence), int(sequence)) == (DIGITS, 2**63 - 1)


def test_everything_goes_to_one_queue() -> None:
    assert CLOUDEVENTS.queues == {INFO: INFO, WARN: INFO}


def test_a_row_that_cannot_be_read_is_an_error_that_names_the_option() -> None:
    with pytest.raises(Unwritable, match="cloudevents_topics"):
        CLOUDEVENTS.bodies(replace(exists(), payload=b"[]"))
