# SPDX-License-Identifier: Apache-2.0
"""The contract of a store on SQL: its tables can be read with SQL, and a database that is out of reach is StoreUnavailable."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator
from functools import partial

import msgpack
import pytest
import sqlalchemy as sa

from tests.conformance.store import StoreContract
from tests.conformance.store_outcomes import refusal
from tests.conformance.store_topics import letter
from tests.support.builders import NOW, begin, inventory, node_name, resources, uuid
from tests.support.store import TOPIC, Writer, answer, load, note, settle, snapshots
from tracker_worker.domain.commands import ReportNode
from tracker_worker.errors import StoreUnavailable
from tracker_worker.library.fairlock import FairLock
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.sql import engines
from tracker_worker.store.sql.schema import allocations, nodes
from tracker_worker.store.sql.store import SQLStore

N1, N2 = node_name(1), node_name(2)
# No test waits so long: the timeout is for the concurrent writers of the suite on a busy machine.
LOCK_TIMEOUT_SECONDS = 30


def lock_and_leave(store: Store) -> None:
    with store.locked(1):
        pass


def lock_all_and_leave(store: Store) -> None:
    with store.all_locked():
        pass


def every_method(store: Store, stream_id: int) -> dict[str, partial]:
    """Return a call of each method that uses the database; each call would succeed."""
    return {
        "register_host": partial(store.register_host, "host-9", topic="tracker", version="1.0", now=NOW),
        "host_names": store.host_names,
        "load_host": partial(store.load_host, "host-1"),
        "create_node": partial(store.create_node, 1, "node-9"),
        "missing_nodes": store.missing_nodes,
        "incoming": partial(store.incoming, ["i-1"]),
        "moves": partial(store.moves, limit=1),
        "untold_moves": partial(store.untold_moves, limit=1),
        "billed": partial(store.billed, 1, beginning=0, ending=1),
        "usage": partial(store.usage, 1, ["i-1"], beginning=0, ending=1),
        "closed_periods": partial(store.closed_periods, 1, since=0, until=1),
        "answered": partial(store.answered, ["u-1"]),
        "count_attempt": partial(store.count_attempt, "u-1", NOW),
        "commit": partial(store.commit, Commit(inbox_rows=[answer("u-9")])),
        "refreshed": partial(store.refreshed, {"host-1": {}}),
        "locked": partial(lock_and_leave, store),
        "all_locked": partial(lock_all_and_leave, store),
        "probe": partial(store.probe, 1, NOW),
        "hosts": store.hosts,
        "host": partial(store.host, "host-1"),
        "histories": store.histories,
        "progress": partial(store.progress, ["host-1"]),
        "renew_token": partial(store.renew_token, 1, "a token"),
        "commit of a name": partial(store.commit, Commit(host_names={1: "host-1"})),
        "forget_host": partial(store.forget_host, 77),
        "stream_id": partial(store.stream_id, "host-1", "node-8"),
        "allocations": partial(store.allocations, limit=1),
        "streams": partial(store.streams, "host-1"),
        "streams_without_host": store.streams_without_host,
        "left_streams": store.left_streams,
        "open_cursors": partial(store.open_cursors, "host-1", [TOPIC]),
        "mark_refused": partial(store.mark_refused, stream_id, TOPIC, 1, "too large"),
        "keep_dead_letters": partial(store.keep_dead_letters, [letter()]),
        "dead_letters": partial(store.dead_letters, 1),
        "drop_dead_letters": partial(store.drop_dead_letters, [1]),
        "outbox": partial(store.outbox, stream_id, after=0, limit=1),
        "stream_page": partial(store.stream_page, "host-1", "node-1", after=0, limit=1, max_bytes=1),
        "backlog": store.backlog,
        "take_lease": partial(store.take_lease, [1], "a", now=NOW, until=NOW),
        "release_lease": partial(store.release_lease, "a"),
        "keep_refusals": partial(store.keep_refusals, [refusal(1)], 1),
        "refusals": store.refusals,
        "told": partial(store.told, event_types=["tracker.claim.begun"], limit=1),
        "prune": partial(store.prune, 1, answered_before=0, occurred_before=0, limit=1),
    }


def assert_unavailable(store: Store, stream_id: int, *, but: frozenset[str] = frozenset()) -> None:
    """Assert that every method raises StoreUnavailable, except the methods ``but``, which succeed."""
    for name, call in every_method(store, stream_id).items():
        if name in but:
            call()
            continue
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert caught.value.kwargs["reason"], name


class SQLStoreContract(StoreContract):
    """A subclass provides ``url`` of an empty database that has the schema, or in which the store creates the schema."""

    @pytest.fixture
    @abc.abstractmethod
    def url(self) -> str:
        """An SQLAlchemy URL."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = SQLStore(url, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS, write_lock=FairLock())
        store.start()
        yield store
        store.stop()

    @pytest.fixture
    def second(self, store: Store, url: str) -> Iterator[Store]:
        second = SQLStore(url, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS, write_lock=FairLock())
        second.start()
        yield second
        second.stop()

    @pytest.fixture
    def database(self, store: Store, url: str) -> Iterator[sa.Engine]:
        """A separate engine on the store's database."""
        engine = engines.create_engine(url)
        yield engine
        engine.dispose()

    def test_every_method_that_uses_the_database_is_tried_without_it(self, store: Store) -> None:
        others = {"start", "stop", "check", "time"}
        assert Store.__abstractmethods__ - others <= every_method(store, 1).keys()

    def test_a_store_that_is_opened_later_has_the_committed_data(self, store: Store, url: str) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit(answer("u-1"))
        store.stop()
        later = SQLStore(url)
        later.start()
        assert snapshots(load(later)) == snapshots(writer.host)
        assert later.answered(["u-1"]) == {"u-1": answer("u-1").reply}
        later.stop()

    def test_a_scheduler_reads_totals_and_usage_with_sql(self, store: Store, database: sa.Engine) -> None:
        settle(store).put(begin(1, node=N1)).put(begin(2, node=N1, task_state=None)).commit()
        with database.begin() as connection:
            row = connection.execute(sa.select(nodes).where(nodes.c.name == N1)).mappings().one()
        read = {
            name: row[name]
            for name in row
            if name not in ("id", "host_id", "stream_id", "life", "inventory", "periods")
        }
        assert read == {
            "name": N1,
            "generation": 2,
            "state": "open",
            "vcpus": 32,
            "vcpus_used": 4,
            "memory_mb": 131072,
            "memory_mb_used": 8192 + 512,
            "local_gb": 2000,
            "local_gb_used": 100,
            "running_vms": 2,
            "current_workload": 1,
            "io_workload": 2,
            "custom_resources": None,
        }

    def test_a_scheduler_reads_totals_and_usage_of_custom_classes_with_sql(
        self, store: Store, database: sa.Engine
    ) -> None:
        writer = settle(store).put(ReportNode(node=N1, inventory=inventory(resources={"VGPU": 4, "FPGA": 1})))
        writer.put(begin(1, node=N1, resources={"VGPU": 2})).commit()
        writer.put(ReportNode(node=N1, inventory=inventory(resources={"FPGA": 1}))).commit()
        with database.begin() as connection:
            text = connection.execute(sa.select(nodes.c.custom_resources).where(nodes.c.name == N1)).scalar_one()
        assert json.loads(text) == {"FPGA": {"total": 1, "used": 0}, "VGPU": {"total": 0, "used": 2}}
        assert load(store).node(N1).drift is None

    @pytest.mark.parametrize(
        ("edited", "stored"),
        [('{"VGPU": {"total": 4, "used": 3}}', 3), (None, 0), ("", 0), ("no JSON", 0), ('{"VGPU": 3}', 0), ("[]", 0)],
    )
    def test_edited_usage_of_a_custom_class_is_reported_as_drift(
        self, store: Store, database: sa.Engine, edited: str | None, stored: int
    ) -> None:
        writer = settle(store).put(ReportNode(node=N1, inventory=inventory(resources={"VGPU": 4})))
        writer.put(begin(1, node=N1, resources={"VGPU": 2})).commit()
        with database.begin() as connection:
            connection.execute(sa.update(nodes).where(nodes.c.name == N1).values(custom_resources=edited))
        ledger = load(store).node(N1)
        assert ledger.drift is not None
        assert (ledger.drift["VGPU"], ledger.usage["VGPU"]) == (stored, 2)

    def test_an_unsupported_node_has_no_totals(self, store: Store, database: sa.Engine) -> None:
        settle(store).put(ReportNode(node=N1, inventory=None, keeps_inventory=False)).commit()
        columns = (nodes.c.state, nodes.c.vcpus, nodes.c.memory_mb, nodes.c.local_gb, nodes.c.inventory)
        with database.begin() as connection:
            row = connection.execute(sa.select(*columns).where(nodes.c.name == N1)).one()
        assert tuple(row) == ("unsupported", None, None, None, None)

    def test_edited_usage_is_reported_as_drift_and_replaced(self, store: Store, database: sa.Engine) -> None:
        settle(store).put(begin(1, node=N1)).commit()
        with database.begin() as connection:
            connection.execute(sa.update(nodes).where(nodes.c.name == N1).values(vcpus_used=7, local_gb_used=0))
        again = Writer(store)
        assert again[N1].drift == resources(vcpu=7, memory_mb=4096 + 512, disk_gb=0)
        assert again[N1].usage == resources(vcpu=2, memory_mb=4096 + 512, disk_gb=50)
        assert again[N2].drift is None

        again.put(ReportNode(node=N1, inventory=again[N1].inventory)).commit()
        assert [row.event_type for row in store.outbox(again[N1].stream_id, after=2, limit=10)] == ["UsageDrift"]
        assert load(store).node(N1).drift is None

    def test_a_removed_allocation_is_reported_as_drift(self, store: Store, database: sa.Engine) -> None:
        settle(store).put(begin(1, node=N1)).commit()
        with database.begin() as connection:
            connection.execute(sa.delete(allocations))
        ledger = load(store).node(N1)
        assert ledger.drift == resources(vcpu=2, memory_mb=4096 + 512, disk_gb=50)
        assert ledger.usage == resources(memory_mb=512)

    def test_a_fact_written_by_a_newer_release_is_ignored(self, store: Store, database: sa.Engine) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        with database.begin() as connection:
            facts = msgpack.unpackb(connection.execute(sa.select(allocations.c.facts)).scalar_one())
            newer = msgpack.packb({**facts, "from_the_future": 1})
            connection.execute(sa.update(allocations).values(facts=newer))
        assert load(store).node(N1).allocations[uuid(1)] == writer[N1].allocations[uuid(1)]

    def test_the_outbox_holds_the_message_id_of_each_notification(self, store: Store, database: sa.Engine) -> None:
        writer = settle(store)
        with database.begin() as connection:
            stored = connection.execute(
                sa.text("SELECT message_id FROM outbox WHERE stream_id = :id"), {"id": writer[N1].stream_id}
            ).scalar_one()
        assert stored == note(writer[N1], 1).message_id
        assert len({note(writer[name], sequence).message_id for name in (N1, N2) for sequence in (1, 2)}) == 4
