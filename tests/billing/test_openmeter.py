# SPDX-License-Identifier: Apache-2.0
"""OpenMeter's client posts every event type as it is, or as the page has it; the CloudEvents SDK reads what arrives."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.billing.conftest import MakeStage
from tests.billing.http_server import Posted, StandIn
from tracker_worker.notifications import schema

PROGRAM = Path(__file__).with_name("post_events.py")
TOKEN = "om_secret"
TOPIC = "events"

Post = Callable[[list[bytes], str], None]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn("/api/v1/events")
    yield server
    server.close()


@pytest.fixture
def post(stand_in: StandIn) -> Post:
    """Posts these events in this form, see ``post_events.py``."""

    def run(bodies: list[bytes], form: str) -> None:
        python = Path(os.environ["BILLING_OPENMETER"]) / "bin" / "python"
        done = subprocess.run(
            [python, PROGRAM, f"http://{stand_in.address}", TOKEN, form],
            input=b"\n".join(bodies),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    return run


@pytest.fixture(scope="module")
def bodies(make_stage: MakeStage) -> list[bytes]:
    """An event of every type, as a consumer takes it from the queue."""
    stage = make_stage("classic", cloudevents_topics=TOPIC)
    stage.play()
    return stage.bodies(f"{TOPIC}.info")


def read(posted: Posted) -> dict[str, Any]:
    """The event as the SDK reads it. Raises an error of the SDK: it is no event."""
    event = from_http_event(HTTPMessage(posted.headers, posted.body))
    return {**event.get_attributes(), "data": event.get_data()}


def test_every_event_type_is_there(bodies: list[bytes]) -> None:
    assert {json.loads(body)["type"] for body in bodies} == schema.event_types()


def test_a_message_is_posted_byte_for_byte(bodies: list[bytes], post: Post, stand_in: StandIn) -> None:
    post(bodies, "bytes")

    assert [posted.body for posted in stand_in.posted] == bodies
    for posted in stand_in.posted:
        assert posted.headers["content-type"] == "application/cloudevents+json"
        assert posted.headers["authorization"] == f"Bearer {TOKEN}"
        event, sent = read(posted), json.loads(posted.body)
        assert event.pop("time") == datetime.fromisoformat(sent.pop("time"))
        assert event == sent


def test_a_batch_is_posted_as_it_is(bodies: list[bytes], post: Post, stand_in: StandIn) -> None:
    post(bodies, "batch")

    [posted] = stand_in.posted
    assert posted.headers["content-type"] == "application/cloudevents-batch+json"
    assert json.loads(posted.body) == [json.loads(body) for body in bodies]


def test_the_event_of_a_project_is_an_event_of_openmeter(bodies: list[bytes], post: Post, stand_in: StandIn) -> None:
    """OpenMeter's own type requires a subject: events of nodes have none, and are not metered."""
    events = [(body, json.loads(body)) for body in bodies]
    of_nodes = {event["type"] for _, event in events if "subject" not in event}
    assert of_nodes == {"tracker.node.updated", "tracker.node.drift", "tracker.period.closed"}

    post([body for body, event in events if "subject" in event], "model")

    assert [json.loads(posted.body) for posted in stand_in.posted] == [
        event for _, event in events if "subject" in event
    ]


def test_the_program_of_the_page_posts_the_usage_of_a_period_with_a_time_within_it(
    bodies: list[bytes], post: Post, stand_in: StandIn
) -> None:
    """And nothing that has no project, which OpenMeter would refuse."""
    events = [json.loads(body) for body in bodies]
    usage = [event for event in events if event["type"] == "tracker.usage.exists"]
    assert usage
    for event in usage:
        said, ending = (datetime.fromisoformat(text) for text in (event["time"], event["data"]["audit_period_ending"]))
        assert said >= ending
        event["time"] = event["data"]["audit_period_beginning"]

    post(bodies, "page")

    assert [json.loads(posted.body) for posted in stand_in.posted] == [event for event in events if "subject" in event]
