# SPDX-License-Identifier: Apache-2.0
"""Several threads and two stores on the same data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event

import pytest

from tests.support.builders import HOST, NOW, begin, instance, inventory, node_name, uuid
from tests.support.store import ALL, TOPIC, StoreCase, Writer, answer, at_once, cursors, load, register, settle, uuids
from tracker_worker.domain.commands import AbortClaim
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.resources import ZERO
from tracker_worker.store.base import Conflict, Store

N1, N2 = node_name(1), node_name(2)
THREADS = 4
CLAIMS = 8
# In each round at least one of several writers succeeds.
MOST_CONFLICTS = THREADS * CLAIMS


def claim(store: Store, number: int, node: str) -> None:
    Writer(store).put(begin(number, node=node)).commit(answer(f"u-{number}"))


def claim_each(store: Store, numbers: range, node: str) -> int:
    """Commit a claim for each instance, and retry after each conflict. Return the number of conflicts."""
    conflicts = 0
    for number in numbers:
        while not first_come(partial(claim, store, number, node)):
            conflicts += 1
            assert conflicts < MOST_CONFLICTS
    return conflicts


def first_come(work: Callable[[], object]) -> bool:
    """Return whether ``work`` was done without a conflict."""
    try:
        work()
    except Conflict:
        return False
    return True


def numbers_of(thread: int) -> range:
    return range(100 * thread + 1, 100 * thread + 1 + CLAIMS)


def check_totals(host: HostLedger, store: Store) -> None:
    """Assert that each ledger has no drift, that its usage is reserve plus allocations, and that its outbox is complete."""
    for ledger in host:
        assert ledger.drift is None
        assert ledger.inventory is not None
        charged = sum((allocation.resources for allocation in ledger.allocations.values()), ZERO)
        assert ledger.usage == ledger.inventory.reserved + charged
        rows = store.outbox(ledger.stream_id, after=0, limit=ALL)
        assert [row.sequence for row in rows] == list(range(1, ledger.sequence + 1))


class ConcurrencyContract(StoreCase):
    @pytest.fixture(autouse=True)
    def threads_in_turn(self) -> Iterator[None]:
        """Make Python switch threads after every few instructions, so that a race shows."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(usual)

    def test_concurrent_writers_of_one_node_lose_no_claim(self, store: Store, second: Store) -> None:
        settle(store)
        at_once(
            *(partial(claim_each, (store, second)[thread % 2], numbers_of(thread), N1) for thread in range(THREADS))
        )
        host = load(store)
        expected = [uuid(number) for thread in range(THREADS) for number in numbers_of(thread)]
        assert uuids(list(host)) == sorted(expected)
        assert host.node(N1).generation == host.node(N1).sequence == 1 + THREADS * CLAIMS
        check_totals(host, store)

    def test_concurrent_writers_of_different_nodes_have_no_conflicts(self, store: Store, second: Store) -> None:
        settle(store, nodes=THREADS)
        conflicts = at_once(
            *(
                partial(claim_each, (store, second)[thread % 2], numbers_of(thread), node_name(thread + 1))
                for thread in range(THREADS)
            )
        )
        assert conflicts == [0] * THREADS
        host = load(store)
        for thread in range(THREADS):
            assert uuids([host.node(node_name(thread + 1))]) == [uuid(number) for number in numbers_of(thread)]
        check_totals(host, store)

    def test_only_one_of_several_writers_answers_a_message(self, store: Store, second: Store) -> None:
        settle(store, nodes=THREADS)
        for attempt in range(5):
            writers = [
                Writer((store, second)[thread % 2]).put(begin(10 * attempt + thread, node=node_name(thread + 1)))
                for thread in range(THREADS)
            ]
            one = answer(f"u-{attempt}")
            won = at_once(*(partial(first_come, partial(writer.commit, one)) for writer in writers))
            assert sum(won) == 1
            assert len(uuids(list(load(store)))) == attempt + 1

    def test_only_one_of_several_writers_claims_for_an_instance(self, store: Store, second: Store) -> None:
        settle(store, nodes=THREADS)
        for attempt in range(1, 6):
            writers = [
                Writer((store, second)[thread % 2]).put(begin(attempt, node=node_name(thread + 1)))
                for thread in range(THREADS)
            ]
            won = at_once(*(partial(first_come, writer.commit) for writer in writers))
            assert sum(won) == 1
            assert len(uuids(list(load(store)))) == attempt
        check_totals(load(store), store)

    def test_a_reader_never_sees_a_part_of_a_commit(self, store: Store, second: Store) -> None:
        """A writer moves instances between two nodes, both in one commit; the nodes always have five instances."""
        writer = settle(store)
        for number in range(1, 5):
            writer.put(begin(number, node=N1))
        writer.put(begin(99, node=N2)).commit()
        reserved = inventory().reserved
        done = Event()

        def write() -> None:
            try:
                for turn in range(40):
                    number = turn % 4 + 1
                    holder = writer.host.holding(uuid(number))
                    assert holder is not None
                    target = N2 if holder.name == N1 else N1
                    writer.put(AbortClaim(claim_id=uuid(number))).put(begin(number, node=target)).commit()
            finally:
                done.set()

        def read() -> None:
            views = 0
            while not done.is_set() or not views:
                host = load(second)
                one, two = host.node(N1), host.node(N2)
                assert one.drift is None
                assert two.drift is None
                assert one.generation == two.generation
                assert uuids([one, two]) == [*map(uuid, range(1, 5)), uuid(99)]
                total = sum((instance(number).resources for number in (1, 2, 3, 4, 99)), ZERO)
                assert one.usage + two.usage == reserved + reserved + total
                views += 1

        at_once(write, read, read)
        check_totals(load(second), second)

    def test_a_page_of_a_stream_is_of_one_moment(self, store: Store, second: Store) -> None:
        """One thread writes notifications, and one drops all but the last ones."""
        writer = settle(store, nodes=1)
        done = Event()

        def write() -> None:
            try:
                for number in range(1, 41):
                    writer.put(begin(number, node=N1)).commit(cursors={writer[N1].stream_id: writer[N1].sequence})
                    store.prune(writer.host.id, answered_before=0, occurred_before=NOW + 1, limit=ALL)
            finally:
                done.set()

        def read() -> int:
            pages = 0
            while not done.is_set() or not pages:
                page = second.stream_page(HOST, N1, after=0, limit=ALL, max_bytes=ALL)
                assert page is not None
                sequences = [row.sequence for row in page.notifications]
                assert sequences == list(range(page.first, page.last + 1))
                pages += 1
            return pages

        at_once(write, read)

    def test_only_one_of_several_workers_takes_a_lease(self, store: Store, second: Store) -> None:
        hosts = [register(store, f"host-{number}") for number in range(3)]
        for now in range(0, 100, 20):
            held = at_once(
                *(
                    partial((store, second)[thread % 2].take_lease, hosts, f"w-{thread}", now=now, until=now + 10)
                    for thread in range(THREADS)
                )
            )
            assert sorted(host for each in held for host in each) == hosts

    def test_concurrent_registrations_create_one_host_and_one_node(self, store: Store, second: Store) -> None:
        def come(which: Store) -> int:
            host_id = register(which)
            which.create_node(host_id, N1)
            which.open_cursors(HOST, [TOPIC])
            return host_id

        ids = at_once(*(partial(come, (store, second)[thread % 2]) for thread in range(THREADS)))
        assert len(set(ids)) == 1
        assert list(load(store).nodes) == [N1]
        assert list(cursors(store).values()) == [0]
