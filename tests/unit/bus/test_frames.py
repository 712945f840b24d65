# SPDX-License-Identifier: Apache-2.0
"""Published frames equal, byte for byte, the frames that py-amqp writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import dumps

from tracker_worker.bus.amqp.frames import publish
from tracker_worker.bus.amqp.internals import encode_properties

FRAME_MAX = 4096
HEADERS = {"x-text": "Žofie", "x-number": 2**40, "x-table": {"a": [1, None, True]}}


def written(exchange: str, routing_key: str, properties: dict[str, Any], body: bytes, mandatory: bool) -> bytes:
    """The frames of a publish, written by py-amqp, on channel 7."""
    out = bytearray()
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    writer = frame_writer(connection, SimpleNamespace(write=out.extend))
    arguments = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    writer(1, 7, spec.Basic.Publish, arguments, amqp.Message(body, **properties))
    return bytes(out)


@pytest.mark.parametrize("mandatory", [True, False])
@pytest.mark.parametrize("size", [0, 1, 100, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
@pytest.mark.parametrize(
    "properties",
    [{}, {"content_type": "text/plain", "delivery_mode": 2, "priority": 0}, {"application_headers": HEADERS}],
    ids=["none", "plain", "headers"],
)
def test_the_frames_equal_those_of_py_amqp(properties: dict[str, Any], size: int, mandatory: bool) -> None:
    body = bytes(number % 251 for number in range(size))
    made = publish(
        7, "exchange", "quéue", encode_properties(properties), body, mandatory=mandatory, frame_max=FRAME_MAX
    )
    assert made == written("exchange", "quéue", properties, body, mandatory)
