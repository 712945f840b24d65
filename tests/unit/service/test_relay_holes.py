# SPDX-License-Identifier: Apache-2.0
"""A number that the outbox lacks is lost, and said to be lost, unless the store's cursors are behind it."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from tests.support.builders import HOST, instance_dict, node_name
from tests.support.deadline import wait_until
from tests.support.relay import A, Case, keys
from tests.unit.service.conftest import MakeHarness
from tracker_worker.bus.base import Bus
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.dialects.table import PLAIN
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import Commit, Conflict

N1 = node_name(1)
B = "b"
# Later than any pause of the relay, which has the clock of this machine.
LATE = 1e9


def run(case: Case, relay: Relay | None = None) -> list[tuple[int, int, str]]:
    """Step until nothing happens any more, with a broker that confirms everything. Return what was published."""
    relay = relay or case.relay
    published = []
    for now in range(20):
        relay.step(LATE + now)
        sent = case.sent.take()
        relay.confirmed(sent)
        published += sent
    return published


@pytest.fixture
def lost() -> Case:
    """Of the numbers 1 to 6, the outbox has lost 4 and 5."""
    case = Case().taken()
    case.cursors()
    case.commit(2)
    case.commit_lost(2)
    case.commit(1)
    case.relay.take(case.writer.host)
    return case


def test_a_hole_is_reported_once_and_what_is_behind_it_is_published(lost: Case) -> None:
    assert run(lost) == keys(2, 3, 6)
    assert lost.holes == [(HOST, N1, 4, 5)]
    assert lost.cursors() == {}
    assert [dict(stream.cursors) for stream in lost.store.streams(HOST)] == [{A: 6}]
    assert lost.offer(1) == keys(7)


def test_a_hole_at_the_end_is_reported(case: Case) -> None:
    case.cursors()
    case.commit_lost(2)
    case.relay.take(case.writer.host)
    assert run(case) == []
    assert case.holes == [(HOST, N1, 2, 3)]
    assert case.offer(1) == keys(4)


def test_it_is_reported_before_anything_behind_it_is_published(lost: Case) -> None:
    lost.hole_errors = [
        StoreUnavailable(reason="away"),
        Conflict("another writer was first"),
        StoreUnavailable(reason="away"),
    ]
    published = []
    for now in range(20):
        lost.relay.step(LATE + now)
        sent = lost.sent.take()
        lost.relay.confirmed(sent)
        published.append((sent, len(lost.holes)))
    assert [(sent, holes) for sent, holes in published if sent] == [(keys(2, 3), 0), (keys(6), 1)]
    assert lost.holes == [(HOST, N1, 4, 5)]


def test_it_is_reported_once_for_all_topics() -> None:
    case = Case(topics=(A, B)).taken()
    case.commit_lost(1)
    case.commit(1)
    case.relay.take(case.writer.host)
    assert sorted(run(case)) == sorted([*keys(3), *keys(3, topic=B)])
    assert case.holes == [(HOST, N1, 2, 2)]


def test_each_hole_is_reported(lost: Case) -> None:
    lost.commit_lost(1)
    lost.commit(1)
    lost.relay.take(lost.writer.host)
    assert run(lost) == keys(2, 3, 6, 8)
    assert lost.holes == [(HOST, N1, 4, 5), (HOST, N1, 7, 7)]


def test_numbers_that_were_taken_while_notifications_were_switched_off_are_no_hole(case: Case) -> None:
    case.cursors()
    case.commit(2)
    case.commit_lost(2, passes_over=True)
    case.commit(1)
    case.relay.take(case.writer.host)
    assert run(case) == keys(2, 3, 6)
    assert case.holes == []


def test_numbers_that_another_worker_has_published_and_pruned_are_no_hole(case: Case) -> None:
    case.cursors()
    case.commit(4)
    case.relay.take(case.writer.host)
    case.store.commit(Commit(cursors={(1, A): 5}))
    case.store.prune(case.writer.host.id, answered_before=0, occurred_before=2**62, limit=10)
    assert run(case) == []
    assert case.holes == []
    assert case.offer(1) == keys(6)


def test_what_is_missing_behind_published_numbers_is_a_hole(case: Case) -> None:
    case.commit_lost(4)
    case.commit(1)
    case.relay.take(case.writer.host)
    case.store.commit(Commit(cursors={(1, A): 3}))
    assert run(case) == keys(6)
    assert case.holes == [(HOST, N1, 4, 5)]


def test_a_store_that_has_gone_back_has_no_hole(case: Case) -> None:
    """What follows is found out where the histories are compared."""
    case.cursors()
    case.relay.take_streams(HOST, {1: 30})
    assert run(case) == []
    assert case.holes == []


def test_a_hole_is_an_error_with_node_and_numbers(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    relay = Relay(case.store, cast(Bus, case.sent), topics={A: PLAIN}, wake=lambda: None)
    case.commit_lost(2)
    relay.take(case.writer.host)
    run(case, relay)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"the outbox lacks the events 2 to 3 of node {HOST}/{N1}: they are lost"]


def test_a_worker_without_notifications_leaves_no_hole(
    make_harness: MakeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Notifications are on, then off for a while, then on again, and the first commit comes before the lease."""
    first = make_harness().start()
    first.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert first.hear(1) == [("claim.begun", 2)]
    first.stop()
    silent = make_harness(store=first.store.inner, notify=False).start(relaying=False)
    silent.caller.call("begin_resource_claim", instance=instance_dict(2)).reply()
    silent.engine.renew_leases()
    silent.finish()
    silent.caller.call("begin_resource_claim", instance=instance_dict(3)).reply()
    assert silent.notified() == []
    silent.stop()
    last = make_harness(store=first.store.inner).start()
    last.caller.call("begin_resource_claim", instance=instance_dict(4)).reply()
    assert last.hear(1) == [("claim.begun", 5)]
    [stream] = last.store.inner.streams(HOST)
    wait_until(lambda: dict(last.store.inner.streams(HOST)[0].cursors) == {"notifications": 5}, "the cursor")
    assert stream.sequence == 5
    assert [record for record in caplog.records if record.levelno == logging.ERROR] == []
