# SPDX-License-Identifier: Apache-2.0
"""Ceilometer, with the files of etc/ceilometer, takes every event type from every kind of queue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.billing.conftest import MakeAgent, MakeStage, note
from tests.billing.stage import RABBIT, TOPIC, Counts
from tracker_worker.notifications import schema

QUEUE = f"{TOPIC}.info"
CHARGED = {"tracker.vcpu": "VCPU", "tracker.memory_mb": "MEMORY_MB", "tracker.disk_gb": "DISK_GB"}
SUMMED = {f"{meter}_seconds": name for meter, name in CHARGED.items()}

Sample = tuple[str, str, int, str, str, str]
"""message_id, meter, volume, project, user, resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the worker has published, what has become of it, and the state of the queue at the end."""

    published: list[dict[str, Any]]
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    complaints: list[str]
    log: str
    counts: Counts
    left: int


@pytest.fixture(scope="module", params=RABBIT)
def run(request: pytest.FixtureRequest, make_stage: MakeStage, make_agent: MakeAgent) -> Run:
    stage = make_stage(request.param)
    agent = make_agent(stage, TOPIC)
    published = stage.play()
    agent.wait_for_events(len(published))
    counts = stage.counts(QUEUE, len(published))
    agent.stop()
    run = Run(
        published=published,
        events=agent.events(),
        samples=agent.samples(),
        complaints=agent.complaints(),
        log=agent.log(),
        counts=counts,
        left=stage.left(QUEUE),
    )
    types = {message["event_type"] for message in published}
    note(
        f"{request.param}: {len(published)} notifications of {len(types)} types, {len(run.events)} events, "
        f"{len(run.samples)} samples, {counts.redelivered} requeued, {run.left} left, {len(run.complaints)} complaints"
    )
    return run


def test_every_event_type_arrives_once_as_an_event(run: Run) -> None:
    sent = [(message["message_id"], message["event_type"]) for message in run.published]

    assert {event_type for _, event_type in sent} == schema.event_types()
    assert Counter((event["message_id"], event["event_type"]) for event in run.events) == Counter(sent)


def test_nothing_is_requeued_and_nothing_is_left(run: Run) -> None:
    number = len(run.published)
    assert run.counts == Counts(delivered=number, redelivered=0, acknowledged=number)
    assert run.left == 0


def test_ceilometer_finds_nothing_to_complain_about(run: Run) -> None:
    assert run.complaints == []
    assert "duplicate meter" not in run.log


def test_an_event_says_what_its_notification_says(run: Run) -> None:
    told = {message["message_id"]: message["payload"] for message in run.published}
    for event in run.events:
        payload = told[event["message_id"]]
        traits = {trait["name"]: trait["value"] for trait in event["traits"]}
        for name in (
            "host",
            "node",
            "sequence",
            "ledger_id",
            "region",
            "seconds",
            "exists",
            "claim_state",
            "tenant_id",
        ):
            assert traits.get(name) == payload.get(name)
        if "charged" in payload:
            assert {name: traits[f"charged_{name.lower()}"] for name in CHARGED.values()} == payload["charged"]
        if payload.get("effective_at"):
            assert traits["effective_at"].replace(" ", "T") == payload["effective_at"].removesuffix("Z")


def test_the_samples_are_those_of_the_notifications_and_every_volume_is_a_number(run: Run) -> None:
    taken = [
        (
            sample["resource_metadata"]["message_id"],
            sample["name"],
            sample["volume"],
            sample["project_id"],
            sample["user_id"],
            sample["resource_id"],
        )
        for sample in run.samples
    ]

    assert Counter(taken) == Counter(one for message in run.published for one in expected(message))
    assert {type(volume) for _, _, volume, *_ in taken} == {int}


def expected(message: dict[str, Any]) -> Iterator[Sample]:
    """The samples that a notification must give."""
    event_type, payload = message["event_type"], message["payload"]
    if event_type == "tracker.period.closed":
        node = f"{payload['host']}/{payload['node']}"
        yield message["message_id"], "tracker.period.exists", payload["exists"], None, None, node  # type: ignore[misc]
        return
    volumes: dict[str, int] = {}
    if event_type == "tracker.usage.exists":
        volumes = {meter: payload["resource_seconds"][name] for meter, name in SUMMED.items()}
        volumes["tracker.instance_seconds"] = payload["seconds"]
    elif re.match(r"tracker\.(claim|usage)\.", event_type) and not event_type.endswith((".rejected", ".untracked")):
        volumes = {meter: payload["charged"][name] for meter, name in CHARGED.items()}
    owner = payload.get("tenant_id", ""), payload.get("user_id", ""), payload.get("instance_id", "")
    for meter, volume in volumes.items():
        yield message["message_id"], meter, volume, *owner


def test_every_sample_of_an_instance_has_a_project_and_a_user(run: Run) -> None:
    of_instances = [sample for sample in run.samples if sample["name"] != "tracker.period.exists"]
    assert {sample["name"] for sample in of_instances} == {*CHARGED, *SUMMED, "tracker.instance_seconds"}
    for sample in of_instances:
        assert sample["project_id"]
        assert sample["user_id"]


def test_the_end_of_a_charge_is_a_sample_of_zero(run: Run) -> None:
    ended = {"tracker.claim.aborted", "tracker.usage.released"}
    volumes = {
        (sample["resource_metadata"]["event_type"], sample["volume"])
        for sample in run.samples
        if sample["name"] in CHARGED and sample["resource_metadata"]["event_type"] in ended
    }
    assert volumes == {(event_type, 0) for event_type in ended}


def test_no_two_samples_of_a_meter_and_an_instance_have_one_time_within_a_period(run: Run) -> None:
    of_periods = [sample for sample in run.samples if sample["name"] in (*SUMMED, "tracker.instance_seconds")]
    times = Counter((sample["name"], sample["resource_id"], sample["timestamp"]) for sample in of_periods)
    assert set(times.values()) == {1}
    begins = {
        segments[0]["from"]
        for message in run.published
        if (segments := message["payload"].get("segments"))
    }  # fmt: skip
    assert {begin.replace("Z", "+00:00") for begin in begins} <= {sample["timestamp"] for sample in of_periods}
