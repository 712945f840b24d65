# SPDX-License-Identifier: Apache-2.0
"""What a worker holds in memory: never more than its limits, and nothing that has ended.

These checks look inside. They are made between two steps of the engine, every now and then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import isfinite
from typing import Any

from tests.simulation.bus import SimulatedBus
from tests.simulation.machine import VirtualStepThread
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.requests.items import request_of
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Commit

# The limits as the promise has them, and not as the worker does.
_ANSWERS, _ANSWER_BYTES = 4096, 16 << 20
_IN_FLIGHT, _SHARE = 1000, 500
_ROWS, _COMMIT_BYTES = 1000, 8 << 20
_TIMERS = 20
"""Timers of the worker's own."""


def exceeded(worker: Worker) -> Iterator[str]:
    """Every limit that a running worker does not keep, one sentence each. Nothing while its engine is in the middle of a
    step."""
    thread = worker._engine.thread
    assert isinstance(thread, VirtualStepThread)
    if thread.is_between_steps():
        yield from _answers(worker)
        yield from _relayed(worker._engine._relay)
        yield from _waiting(worker)
        yield from _audits(worker)
        yield from _timers(worker)


def too_large(commit: Commit) -> Iterator[str]:
    """A commit has a limited number of rows and bytes."""
    if len(commit.inbox_rows) > _ROWS:
        yield f"a commit has {len(commit.inbox_rows)} rows of the inbox"
    size = sum(len(row.reply) for row in commit.inbox_rows) + sum(len(row.payload) for row in commit.notifications)
    if size > _COMMIT_BYTES:
        yield f"a commit has {size} bytes"


def left(worker: Worker, bus: SimulatedBus) -> Iterator[str]:
    """What a worker still has when there is nothing to do, one sentence each."""
    if size := bus.receiver.unsettled_bytes():
        yield f"{size} bytes count as received and not settled"
    for destination in bus.sender._destinations.by_key.values():
        if not destination.held and (destination.out or destination.waiting or destination.returning):
            yield f"{destination.out} messages for {destination.name} count as published, and {destination.waits()} wait"


def _answers(worker: Worker) -> Iterator[str]:
    inbox = worker._engine._engine._attempts._inbox
    size = sum(map(len, inbox._recent.values()))
    if len(inbox._recent) > _ANSWERS or size > _ANSWER_BYTES or size != inbox._bytes:
        yield f"{len(inbox._recent)} answers of {size} bytes are kept, which count as {inbox._bytes} bytes"


def _relayed(relay: Relay) -> Iterator[str]:
    for topic in relay._topics.values():
        flights = [track.in_flight for track in topic.tracks.values()]
        count, size = sum(map(len, flights)), sum(sum(flight.values()) for flight in flights)
        if count > _IN_FLIGHT or (count, size) != (topic.in_flight, topic._bytes):
            yield (
                f"{count} notifications of {size} bytes are in flight for {topic.name}, and count as {topic.in_flight} of "
                f"{topic._bytes} bytes"
            )
        for track in topic.tracks.values():
            if track.sent - track.confirmed > _SHARE or len(track.ahead) > _SHARE:
                yield f"{track.sent - track.confirmed} notifications of {track.host}/{track.node} are not confirmed"
        strangers = topic.tracks.keys() - {stream for streams in relay._relayed.values() for stream in streams}
        if strangers:
            yield f"{len(strangers)} nodes of other workers are kept for {topic.name}"
    lost = [key for key in relay.moved if key[0] not in relay._topics[key[1]].tracks]
    if lost:
        yield f"the cursors {lost} are to be written, and nobody relays their nodes"


def _waiting(worker: Worker) -> Iterator[str]:
    engine = worker._engine._engine
    arrivals = engine._arrivals
    tasks = Counter(arrival for arrival in arrivals.copy() if callable(arrival))
    if any(task not in tasks for task in arrivals._called_soon):
        yield "a task counts as waiting, and is lost"
    if any(count > 1 for task, count in tasks.items() if task in arrivals._called_soon):
        yield "a task waits twice"
    if arrivals:
        return  # the loss of a connection may be among them
    requests = {id(request): request for request in _requests(engine._backlog)}
    gone = sum(not worker._bus.receiver.is_current(request.delivery) for request in requests.values())
    if gone:
        yield f"{gone} requests are kept whose connection is lost"


def _requests(backlog: Any) -> Iterator[Any]:
    for lane in backlog.lanes():
        for item in lane.items:
            request = request_of(item)
            if request is not None:
                yield request


def _audits(worker: Worker) -> Iterator[str]:
    calls = worker._engine._audits._calls
    waiting = Counter(host for call in calls._waiting for host in call.hosts)
    for host, held in calls._held.items():
        if held.calls != waiting[host] or (held.size > 0) != (held.calls > 0):
            yield f"{waiting[host]} calls wait for an audit of {host}, and {held.calls} of {held.size} bytes count"


def _timers(worker: Worker) -> Iterator[str]:
    timers = [entry.item for _, _, entry in worker._timers._agenda._heap if entry.item is not None]
    engine = worker._engine
    calls = sum(request.heartbeat is not None for request in _requests(engine._engine._backlog))
    calls += sum(call.heartbeat is not None for call in engine._audits._calls._waiting)
    calls += sum(
        request.heartbeat is not None
        for arrival in engine._arrivals.copy()
        if isinstance(arrival, list)
        for request in arrival
    )
    of_calls = sum(isfinite(timer.until) for timer in timers)
    if of_calls > calls or len(timers) - of_calls > _TIMERS:
        yield f"{of_calls} timers belong to calls, of which {calls} wait"
