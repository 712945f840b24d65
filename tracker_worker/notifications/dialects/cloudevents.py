# SPDX-License-Identifier: Apache-2.0
"""The dialect of CloudEvents 1.0, structured mode, JSON: one event for each row.

The attributes are those of the specification and of its extensions "sequence" and "partitioning"
(https://github.com/cloudevents/spec).
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from tracker_worker.domain.views import iso
from tracker_worker.notifications.asked import traceparent_of
from tracker_worker.notifications.dialects.dialect import Bodies
from tracker_worker.notifications.notification import Notification

CONTENT_TYPE = "application/cloudevents+json"

_encode = msgspec.json.Encoder().encode


class _Said(msgspec.Struct):
    """What the attributes need of a payload."""

    ledger_id: str
    region: str
    tenant_id: str = ""


_decode = msgspec.json.Decoder(_Said).decode


def write(notification: Notification) -> Bodies:
    """The event of a row; see ``Dialect``. ``data`` is the payload, byte for byte."""
    said = _decode(notification.payload)
    place = (said.region or said.ledger_id, notification.host, notification.node)
    attributes = {
        "specversion": "1.0",
        "id": notification.message_id,
        "source": "/tracker/" + "/".join(quote(name, safe="") for name in place),
        "type": notification.event_type,
        **({"subject": said.tenant_id} if said.tenant_id else {}),
        "time": iso(notification.occurred_at),
        "dataschema": schema_uri(notification.event_type),
        "sequence": f"{notification.sequence:020}",
        "partitionkey": f"{notification.host}/{notification.node}",
    }
    if traceparent := traceparent_of(notification.asked):
        attributes["traceparent"] = traceparent  # the extension for distributed tracing
    return (_encode(attributes)[:-1] + b',"data":' + notification.payload + b"}",)


def schema_uri(event_type: str) -> str:
    """The name of the schema of ``data``, which is a file of this package: nothing is behind it on any network."""
    return f"urn:tracker-worker:schema:{event_type}"
