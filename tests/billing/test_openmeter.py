# SPDX-License-Identifier: Apache-2.0
"""OpenMeter's client posts every event type as it is; the CloudEvents SDK reads what arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from cloudevents.http import CloudEvent, from_http
from openmeter import Client
from openmeter.models import Event

from tests.billing.conftest import MakeStage
from tests.billing.http_server import Posted, StandIn
from tests.billing.stage import known_options
from tracker_worker.notifications import schema

TOKEN = "om_secret"
TOPIC = "events"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn("/api/v1/events")
    yield server
    server.close()


@pytest.fixture
def client(stand_in: StandIn) -> Iterator[Client]:
    with Client(endpoint=f"http://{stand_in.address}", token=TOKEN) as connected:
        yield connected


@pytest.fixture(scope="module")
def bodies(make_stage: MakeStage) -> list[bytes]:
    """An event of every type, as a consumer takes it from the queue."""
    rendered = "cloudevents_topics" in known_options()
    stage = make_stage("classic", **({"cloudevents_topics": TOPIC} if rendered else {}))
    published = stage.play()
    found = stage.bodies(f"{TOPIC}.info") if rendered else []
    there = {json.loads(body)["type"] for body in found}
    return [*found, *(json.dumps(cloud_event(one)).encode() for one in published if one["event_type"] not in there)]


def cloud_event(message: dict[str, Any]) -> dict[str, Any]:
    """The event that stands for a notification which the worker does not publish in this form."""
    payload = message["payload"]
    place = (payload["region"] or payload["ledger_id"], payload["host"], payload["node"])
    return {
        "specversion": "1.0",
        "id": message["message_id"],
        "source": "/tracker/" + "/".join(quote(name, safe="") for name in place),
        "type": message["event_type"],
        **({"subject": payload["tenant_id"]} if payload.get("tenant_id") else {}),
        "time": payload["occurred_at"],
        "dataschema": f"urn:tracker-worker:schema:{message['event_type']}",
        "sequence": f"{payload['sequence']:020}",
        "partitionkey": f"{payload['host']}/{payload['node']}",
        "data": payload,
    }


def read(posted: Posted) -> CloudEvent:
    """What the SDK reads. Raises an error of its own: it is no event."""
    return from_http(posted.headers, posted.body)


def test_every_event_type_is_there(bodies: list[bytes]) -> None:
    assert {json.loads(body)["type"] for body in bodies} == schema.event_types()


def test_a_message_is_posted_byte_for_byte(bodies: list[bytes], client: Client, stand_in: StandIn) -> None:
    for body in bodies:
        client.events.ingest_event(body)

    assert [posted.body for posted in stand_in.posted] == bodies
    for posted in stand_in.posted:
        assert posted.headers["content-type"] == "application/cloudevents+json"
        assert posted.headers["authorization"] == f"Bearer {TOKEN}"
        event, sent = read(posted), json.loads(posted.body)
        assert {**event.get_attributes(), "data": event.get_data()} == {**sent, "time": event["time"]}
        assert datetime.fromisoformat(event["time"]) == datetime.fromisoformat(sent["time"])


def test_a_batch_is_posted_as_it_is(bodies: list[bytes], client: Client, stand_in: StandIn) -> None:
    batch = [json.loads(body) for body in bodies]
    client.events.ingest_events(batch)

    [posted] = stand_in.posted
    assert posted.headers["content-type"] == "application/cloudevents-batch+json"
    assert json.loads(posted.body) == batch


def test_the_event_of_a_project_is_an_event_of_openmeter(
    bodies: list[bytes], client: Client, stand_in: StandIn
) -> None:
    """OpenMeter's own type requires a subject: events of nodes have none, and are not metered."""
    for body in bodies:
        sent = json.loads(body)
        if "subject" not in sent:
            assert sent["type"].startswith(("tracker.node.", "tracker.period."))
            continue
        client.events.ingest_event(Event(sent))
        assert json.loads(stand_in.posted[-1].body) == sent
    assert stand_in.posted
