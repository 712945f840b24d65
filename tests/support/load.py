# SPDX-License-Identifier: Apache-2.0
"""Hundreds of calls and casts in flight at the same time, and the proof that each was processed exactly once, in order.

A call begins a claim for an instance of its own. A cast renames an instance that the same node has held from the start, so
every cast gives one notification and the names show the order of the casts. The claims on ``TIGHT`` nodes exceed their
limit.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.support.builders import RESERVED_MEMORY_MB, instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.raw import RawConnection
from tests.support.stock import UNANSWERED, Client, Heard, Listener
from tests.support.worker_process import NODE, Nodes, Options
from tracker_worker.errors import ComputeResourcesUnavailable

CALLS = CASTS = 500
TIGHT = "tight"
HOSTS: Mapping[str, Nodes] = {
    "h1": {"n1": NODE, "n2": NODE},
    "h2": {"n3": NODE, TIGHT: NODE},
}
_PLACES = tuple((host, node) for host, nodes in HOSTS.items() for node in nodes)
# For each node: the number of instances held from the start and renamed; and the limit on the tight node's total usage.
_BASE = 5
_TIGHT_VCPUS = 30

Place = tuple[str, str]


def options(queue_type: str) -> Options:
    """Options for a worker with a small prefetch, so that a test can stop it in the middle."""
    return {"bus": {"queue_type": queue_type, "prefetch": 64}}


class Load:
    """``calls`` claims and ``casts`` renames, spread over ``HOSTS``, all in flight at the same time."""

    def __init__(self, client: Client, *, calls: int = CALLS, casts: int = CASTS) -> None:
        self._client = client
        self._calls = [(place, f"call-{number}") for number, place in zip(range(calls), itertools.cycle(_PLACES))]
        self._casts: dict[Place, list[tuple[str, str]]] = defaultdict(list)
        for number, place in zip(range(casts), itertools.cycle(_PLACES)):
            base = self._base(place)[number // len(_PLACES) % _BASE]
            self._casts[place].append((base, f"name-{number}"))
        self._lock = threading.Lock()
        self._granted: dict[Place, set[str]] = defaultdict(set)
        self._refused: dict[Place, set[str]] = defaultdict(set)
        self._retries = 0

    def prepare(self) -> None:
        """Claim the instances that the casts rename."""
        for host, node in _PLACES:
            for uuid in self._base((host, node)):
                self._client.call(host, "begin_resource_claim", instance=self._instance(uuid, node))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send everything while the body runs. Returns when every call is answered and every cast is sent."""
        pool = ThreadPoolExecutor(len(self._calls) + len(_PLACES))
        work: list[Future[None]] = [pool.submit(self._rename, place) for place in _PLACES]
        work += [pool.submit(self._claim, place, uuid) for place, uuid in self._calls]
        try:
            yield
            for one in work:
                one.result(90)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def wait_piled_up(self, raw_connection: RawConnection) -> None:
        """Wait until three quarters of the messages are queued. No worker may run, because it would consume them."""
        most = (len(self._calls) + sum(map(len, self._casts.values()))) * 3 // 4
        wait_until(
            lambda: sum(raw_connection.count(f"tracker.{host}") for host in HOSTS) >= most, f"{most} messages pile up"
        )

    def wait_answered(self, count: int) -> None:
        """Wait until ``count`` calls have been answered."""
        wait_until(lambda: self.answered >= count, lambda: f"{count} answers; there are {self.answered}")

    @property
    def answered(self) -> int:
        with self._lock:
            return sum(len(uuids) for outcome in (self._granted, self._refused) for uuids in outcome.values())

    def _claim(self, place: Place, uuid: str) -> None:
        host, node = place
        limits = {"vcpu": _TIGHT_VCPUS} if node == TIGHT else None
        outcome = self._granted
        try:
            claim = self._insist(
                lambda: self._client.call(
                    host, "begin_resource_claim", instance=self._instance(uuid, node), limits=limits
                )
            )
            assert claim["instance_uuid"] == uuid
        except ComputeResourcesUnavailable:
            outcome = self._refused
        with self._lock:
            outcome[place].add(uuid)

    def _insist(self, call: Callable[[], Any]) -> Any:
        """Make the call, and repeat it up to three times while it gets no answer, as a scheduler would."""
        for _ in range(3):
            try:
                return call()
            except UNANSWERED:
                with self._lock:
                    self._retries += 1
        return call()

    def _rename(self, place: Place) -> None:
        host, node = place
        for uuid, name in self._casts[place]:
            self._client.cast(host, "update_usage", instance={"uuid": uuid, "node": node, "display_name": name})

    @staticmethod
    def _base(place: Place) -> list[str]:
        return [f"base-{place[1]}-{number}" for number in range(_BASE)]

    @staticmethod
    def _instance(uuid: str, node: str) -> dict[str, Any]:
        return instance_dict(uuid=uuid, node=node, **sized(vcpus=1, memory_mb=100, disk_gb=2))

    def check(self, listener: Listener) -> None:
        """Check that the ledgers match the answers, and that the notifications match the ledgers: complete, once each, in
        order.
        """
        assert self.answered == len(self._calls)
        for place in _PLACES:
            self._check_node(place, listener)

    def _check_node(self, place: Place, listener: Listener) -> None:
        host, node = place
        # This call is after all casts in the same queue, so the view shows the final state.
        view = self._client.call(host, "get_node", node=node)
        held = self._granted[place] | set(self._base(place))
        claims = self._client.call(host, "list_claims", node=node)
        assert sorted(claim["instance_uuid"] for claim in claims) == sorted(held)
        assert view["running_vms"] == len(held)
        assert view["vcpus_used"] == len(held)
        assert view["memory_mb_used"] == RESERVED_MEMORY_MB + 100 * len(held)
        assert view["local_gb_used"] == 2 * len(held)
        if node == TIGHT:
            assert view["vcpus_used"] == _TIGHT_VCPUS
            assert self._refused[place]
        else:
            assert not self._refused[place]
        heard = once_in_order(listener.wait_for(host, node, view["sequence"]))
        assert [one.sequence for one in heard] == list(range(1, view["sequence"] + 1))
        begun = [one.payload["instance_id"] for one in heard if one.event_type == "tracker.claim.begun"]
        assert sorted(begun) == sorted(held)
        renamed = [
            (one.payload["instance_id"], one.payload["display_name"])
            for one in heard
            if one.event_type == "tracker.usage.updated"
        ]
        assert renamed == self._casts[place]
        rejected = {one.payload["instance_id"] for one in heard if one.event_type == "tracker.claim.rejected"}
        assert rejected == self._refused[place]


def once_in_order(heard: list[Heard]) -> list[Heard]:
    """Return one node's notifications by sequence, each once.

    Asserts that copies are the same notification and that, without copies, each priority, which has its own queue, is in
    order.
    """
    first: dict[int, Heard] = {}
    for one in heard:
        known = first.setdefault(one.sequence, one)
        assert (known.message_id, known.payload, known.metadata) == (one.message_id, one.payload, one.metadata)
    for priority in {one.priority for one in heard}:
        sequences = [sequence for sequence, one in first.items() if one.priority == priority]
        assert sequences == sorted(sequences)
    assert len({one.message_id for one in first.values()}) == len(first)
    return [first[sequence] for sequence in sorted(first)]
