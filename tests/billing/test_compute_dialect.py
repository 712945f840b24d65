# SPDX-License-Identifier: Apache-2.0
"""Ceilometer takes the dialect ``compute`` with nothing but the definitions that it packages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.billing.conftest import MakeAgent, MakeStage, note
from tests.billing.stage import RABBIT, Counts
from tests.support import raw
from tracker_worker.notifications.dialects.compute import EQUIVALENTS

TOPIC, COPIES = "compute", "compute_copies"
QUEUE = f"{TOPIC}.info"
TYPES = {f"compute.instance.{name}" for equivalent in EQUIVALENTS.values() for name in equivalent.names}
# A meter of Ceilometer -> the field of the payload.
METERS = {"vcpus": "vcpus", "memory": "memory_mb", "disk.root.size": "root_gb", "disk.ephemeral.size": "ephemeral_gb"}
# Ceilometer wants launched_at with create.end; our callers may tell it later.
BOOTING = "compute.instance.booting.time"
_NOT_LAUNCHED = re.compile(rf"both fields .* must be datetime|{BOOTING}.* has no volume")


@pytest.mark.parametrize("kind", RABBIT)
def test_every_event_and_every_volume_arrives(kind: str, make_stage: MakeStage, make_agent: MakeAgent) -> None:
    stage = make_stage(kind, compute_topics=f"{TOPIC}, {COPIES}")
    agent = make_agent(stage, TOPIC, definitions=False)
    stage.play()
    published = [raw.unpacked(body) for body in stage.bodies(f"{COPIES}.info")]
    agent.wait_for_events(len(published))
    counts = stage.counts(QUEUE, len(published))
    agent.stop()

    events, samples, number = agent.events(), agent.samples(), len(published)
    note(
        f"{kind}, compute: {number} notifications of {len({one['event_type'] for one in published})} types, "
        f"{len(events)} events, {len(samples)} samples, {counts.redelivered} requeued, {stage.left(QUEUE)} left"
    )
    assert {one["event_type"] for one in published} == TYPES
    assert {one["publisher_id"] for one in published} == {"compute.compute-1"}
    sent = Counter((one["message_id"], one["event_type"]) for one in published)
    assert Counter((event["message_id"], event["event_type"]) for event in events) == sent
    assert counts == Counts(delivered=number, redelivered=0, acknowledged=number)
    assert stage.left(QUEUE) == 0
    taken = [_taken(sample) for sample in samples if sample["name"] != BOOTING]
    assert Counter(taken) == Counter(one for message in published for one in _expected(message))
    assert {type(sample["volume"]) for sample in samples} <= {int, float}
    assert [line for line in agent.complaints() if not _NOT_LAUNCHED.search(line)] == []


def _taken(sample: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sample[name] for name in ("name", "volume", "project_id", "user_id", "resource_id"))


def _expected(message: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The samples that Ceilometer's own definitions make of a notification."""
    payload = message["payload"]
    if message["event_type"] != "compute.instance.update":
        assert payload["tenant_id"]
        assert payload["user_id"]
        for meter, field in METERS.items():
            yield meter, payload[field], payload["tenant_id"], payload["user_id"], payload["instance_id"]
