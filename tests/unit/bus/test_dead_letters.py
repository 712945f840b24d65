# SPDX-License-Identifier: Apache-2.0
"""The headers and properties of a dead letter."""

from __future__ import annotations

from typing import Any

import pytest
from amqp.serialization import dumps

from tests.support.raw import deep_table, wide_table
from tracker_worker.bus.amqp import dead_letter
from tracker_worker.bus.amqp.internals import Content, decode_content
from tracker_worker.bus.amqp.tables import encode_texts
from tracker_worker.bus.base import SHARED, DeadLetter, Delivery


def letter(table: bytes = b"", reason: str = "no good", **fields: Any) -> DeadLetter:
    delivery = Delivery(
        body=b"x", source=SHARED, header_table=table, exchange="openstack", routing_key="tracker.h1", **fields
    )
    return DeadLetter(delivery=delivery, reason=reason)


def content(item: DeadLetter) -> Content:
    return decode_content(dead_letter.encode(item, 0.5).together())


def test_the_senders_table_goes_out_as_it_came_with_our_headers_behind_it() -> None:
    for table in (deep_table(600), wide_table(39000), encode_texts({"a": "b"})):
        sent = content(letter(table)).header_table
        assert sent.startswith(table)
        ours = decode_content(dead_letter.encode(letter(), 0.5).together())
        assert sent[len(table) :] == ours.header_table
        assert ours.headers["x-tracker-reason"] == "no good"
        assert ours.headers["x-tracker-exchange"] == "openstack"
        assert ours.headers["x-tracker-routing-key"] == "tracker.h1"
        assert ours.headers["x-tracker-time"] == "1970-01-01T00:00:00Z"


def test_headers_and_properties_that_the_broker_would_act_on_are_left_out() -> None:
    headers = {"CC": ["q"], "a": 1, "BCC": ["q"], "x-delay": 5, "x-tracker-reason": "another", "cc": "kept"}
    table = bytes(dumps("F", (headers,)))[4:]
    found = content(letter(table, properties={"expiration": "1", "user_id": "guest", "message_id": "m"}))
    assert set(found.headers) == {
        "a",
        "cc",
        *("x-tracker-reason", "x-tracker-exchange", "x-tracker-routing-key", "x-tracker-time"),
    }
    assert found.headers["x-tracker-reason"] == "no good"
    assert found.properties == {"message_id": "m", "delivery_mode": 2}


def test_a_table_that_cannot_be_read_is_left_out_and_its_size_is_named() -> None:
    found = content(letter(b"\x01n?"))
    assert found.headers["x-tracker-headers-left-out"] == "3 bytes"
    assert found.headers["x-tracker-reason"] == "no good"


@pytest.mark.parametrize("frame", [4096, 8192, 131072])
@pytest.mark.parametrize("reason", ["no good", "r" * 100_000, "\ud800" * 2000])
def test_it_always_fits_into_a_frame(frame: int, reason: str) -> None:
    long = "p" * 255
    properties = {"content_type": long, "correlation_id": long, "reply_to": long, "message_id": long, "type": long}
    item = letter(b"\x01nV" * 50_000, reason, properties=properties)
    sent = dead_letter.fitted(item, 0.5, frame - 20)
    assert len(sent) <= frame - 20
    found = decode_content(sent)
    assert found.headers["x-tracker-headers-left-out"] == "150000 bytes"
    assert found.headers["x-tracker-routing-key"] == "tracker.h1"


def test_properties_that_cannot_be_written_again_are_left_out() -> None:
    found = content(letter(properties={"priority": 1000, "content_type": "x" * 300}))
    assert found.properties == {"delivery_mode": 2}
    assert found.headers["x-tracker-reason"] == "no good"
