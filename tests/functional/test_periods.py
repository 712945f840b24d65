# SPDX-License-Identifier: Apache-2.0
"""A real worker closes the periods of its nodes, also those in which it was down, and each period can be proved complete."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.migrated import migrated
from tests.support.worker_process import NODE

HOST = "h1"
EXISTS, CLOSED = "tracker.usage.exists", "tracker.period.closed"
LENGTH = timedelta(seconds=2)


def closed(listener: stock.Listener, node: str = "n1") -> list[stock.Heard]:
    return [one for one in listener.heard(HOST, node) if one.event_type == CLOSED]


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.behaviour("closed-periods")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_period_is_told_and_proved_over_a_kill(
    make_worker: MakeWorker,
    client: stock.Client,
    listener: stock.Listener,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    options: dict[str, Any] = {"notifications": {"usage_audit_period": f"{LENGTH.seconds}s"}}
    if kind == "postgresql":
        options["database"] = {"connection": migrated(request.getfixturevalue("postgresql_url"))}
    worker = make_worker(hosts={HOST: {"n1": NODE, "n2": NODE}}, options=options)
    worker.start()
    worker.wait_ready()
    for number in (1, 2, 3):
        client.call(HOST, "begin_resource_claim", instance=instance_dict(number, node="n1", **sized(vcpus=number)))
    wait_until(lambda: len(closed(listener)) > 1, "two periods")
    worker.kill()
    down = len(closed(listener))
    wait_until(lambda: datetime.now(UTC).timestamp() > stopped(listener) + 3 * LENGTH.seconds, "three periods")
    worker.start()
    worker.wait_ready()
    client.call(HOST, "update_usage", instance={"uuid": uuid(3), "vm_state": "deleted"})
    wait_until(lambda: len(closed(listener)) > down + 3, "periods that were missed, and another one")
    page = wait_until(lambda: between_sweeps(client, listener), "a page that was not read in the middle of a sweep")
    wait_until(lambda: len(closed(listener, "n2")) >= len(closed(listener)) - 1, "the empty node")

    check(unique(listener, "n1"))
    empty = unique(listener, "n2")
    check(empty)
    assert not any(one.event_type == EXISTS for one in empty)
    assert [entry["instance_id"] for entry in page["instances"]] == [uuid(1), uuid(2)]
    for entry in page["instances"]:
        over = int(time(entry["occurred_at"]).timestamp()) - last_end(listener, page["sequence"])
        begun = int(time(entry["since"]).timestamp())
        assert begun < last_end(listener, page["sequence"])
        assert entry["period_resource_seconds"]["VCPU"] == over * entry["charged"]["VCPU"]


def between_sweeps(client: stock.Client, listener: stock.Listener) -> dict[str, Any] | None:
    """A page of instances whose last event is the end of a period, while the next one is not being told yet."""
    page: dict[str, Any] = client.prepare(HOST, version="1.1").call(stock.CONTEXT, "get_instances", node="n1")
    last = [one for one in listener.wait_for(HOST, "n1", page["sequence"]) if one.sequence == page["sequence"]]
    ends = [one.payload["audit_period_ending"] for one in last if one.event_type == CLOSED]
    return page if page["audit_period_beginning"] in ends else None


def stopped(listener: stock.Listener) -> float:
    return time(closed(listener)[-1].payload["audit_period_ending"]).timestamp()


def last_end(listener: stock.Listener, sequence: int) -> int:
    """When the last period ended that was closed up to this number."""
    ends = [one.payload["audit_period_ending"] for one in closed(listener) if one.sequence <= sequence]
    return int(time(max(ends)).timestamp())


def unique(listener: stock.Listener, node: str) -> list[stock.Heard]:
    """What was heard of a node, without copies, which are true copies."""
    first: dict[int, stock.Heard] = {}
    for one in listener.heard(HOST, node):
        known = first.setdefault(one.sequence, one)
        assert (known.message_id, known.payload) == (one.message_id, one.payload)
    assert sorted(first) == list(range(1, len(first) + 1))
    return [first[number] for number in sorted(first)]


def check(heard: list[stock.Heard]) -> None:
    """Periods follow one another, have the sums of their exists, and no instance twice."""
    told: list[stock.Heard] = []
    before = None
    for one in heard:
        if one.event_type == EXISTS:
            told.append(one)
            assert sum(each["seconds"] for each in one.payload["segments"]) == one.payload["seconds"]
        elif one.event_type == CLOSED:
            period = [one.payload[f"audit_period_{name}"] for name in ("beginning", "ending")]
            assert time(period[1]) - time(period[0]) == LENGTH
            assert before in (None, period[0])
            before = period[1]
            assert {each.payload["audit_period_ending"] for each in told} <= {period[1]}
            numbers = [each.sequence for each in told]
            assert one.payload["exists"] == len(told)
            assert (one.payload["first_sequence"], one.payload["last_sequence"]) == (
                min(numbers, default=0),
                max(numbers, default=0),
            )
            assert len({each.payload["instance_id"] for each in told}) == len(told)
            assert one.payload["seconds"] == sum(each.payload["seconds"] for each in told)
            sums = sum((Counter(each.payload["resource_seconds"]) for each in told), Counter[str]())
            assert +Counter(one.payload["resource_seconds"]) == sums
            told = []
    assert before is not None
