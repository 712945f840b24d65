# SPDX-License-Identifier: Apache-2.0
"""The contract of every store. An implementation is tested by a subclass of ``StoreContract`` that provides the fixtures
``store`` and ``second``."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.conformance.store_chores import AttemptsContract, InboxContract, LeaseContract, OutboxContract, PruneContract
from tests.conformance.store_commits import CommitContract, ConflictContract
from tests.conformance.store_concurrency import ConcurrencyContract
from tests.conformance.store_deletions import DeletionContract, LifeContract
from tests.conformance.store_histories import ProgressContract
from tests.conformance.store_hosts import AllocationsContract, HistoryContract, RecordContract
from tests.conformance.store_instance_moves import InstanceMoveContract
from tests.conformance.store_locks import LockedContract, RefreshedContract, VerifiedContract
from tests.conformance.store_moves import MoveContract
from tests.conformance.store_outcomes import OutcomeContract
from tests.conformance.store_segments import SegmentContract
from tests.conformance.store_silent import SilentContract
from tests.conformance.store_topics import CursorContract, DeadLetterContract
from tests.support.builders import HOST, NOW, begin, inventory, node_name, update, uuid
from tests.support.store import StoreCase, Writer, cursors, load, picture, register, settle, snapshots
from tracker_worker.domain.commands import ReportNode
from tracker_worker.domain.life import Life
from tracker_worker.domain.resources import MAX_AMOUNT, MAX_USAGE
from tracker_worker.domain.values import MAX_DEPTH
from tracker_worker.store.base import Store

N1 = node_name(1)


class HostContract(StoreCase):
    def test_an_empty_store_has_no_hosts_nodes_or_cursors(self, store: Store) -> None:
        assert store.host_names() == []
        assert store.backlog() == []
        assert store.progress(["host-1"]).generations == {}
        assert store.hosts() == []

    def test_a_host_that_is_not_registered_has_no_ledger(self, store: Store) -> None:
        register(store, "host-1")
        assert store.load_host("host-2") is None

    def test_a_registered_host_is_an_empty_ledger(self, store: Store, second: Store) -> None:
        host_id = register(store)
        host = load(second)
        assert (host.id, host.name, host.nodes) == (host_id, HOST, {})

    def test_registering_a_host_again_keeps_its_nodes_and_allocations(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        before = picture(store)
        assert second.register_host(HOST, topic="other", version="2.0", now=NOW + 1) == writer.host.id
        after = picture(store)
        (host,) = after.pop("hosts")
        assert before.pop("hosts") == [replace(host, version="1.0", started_at=NOW, last_seen_at=NOW)]
        assert (host.version, host.started_at, host.last_seen_at) == ("2.0", NOW + 1, NOW + 1)
        assert after == before

    def test_hosts_have_different_ids_and_are_listed_by_name(self, store: Store) -> None:
        names = ["host-b", "Host-a", "host-a", "hôte", "host_a", "host-a.example.org"]
        assert len({register(store, name) for name in names}) == len(names)
        assert store.host_names() == sorted(names)

    def test_a_new_node_is_unknown_and_empty(self, store: Store) -> None:
        host_id = register(store)
        store.create_node(host_id, N1)
        ledger = load(store).node(N1)
        assert (ledger.host_id, ledger.host, ledger.name) == (host_id, HOST, N1)
        assert (ledger.generation, ledger.stored_generation, ledger.sequence, ledger.last_at) == (0, 0, 0, 0)
        assert ledger.life == Life()
        assert not ledger.dirty
        assert ledger.allocations == {}
        assert ledger.drift is None
        assert cursors(store) == {}
        assert store.backlog() == []

    def test_creating_an_existing_node_changes_nothing(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        writer.commit(cursors={writer[N1].stream_id: 1})
        before = picture(store)
        second.create_node(writer.host.id, N1)
        assert picture(store) == before

    def test_two_hosts_may_each_have_a_node_of_the_same_name(self, store: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2")
        first.put(begin(1, node=N1)).commit()
        assert first[N1].id != other[N1].id
        assert snapshots(load(store, "host-2")) == snapshots(other.host)

    def test_progress_has_the_generation_of_every_node_of_the_given_hosts(self, store: Store, second: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2", nodes=1)
        first.put(begin(1, node=N1)).put(begin(2, node=N1)).commit()
        of_first = {first[N1].id: 2, first[node_name(2)].id: 1}
        assert second.progress(["host-1"]).generations == of_first
        assert second.progress(["host-1", "host-2"]).generations == {**of_first, other[N1].id: 1}
        assert second.progress([]).generations == {}

    def test_a_store_may_be_stopped_twice_and_started_again(self, store: Store) -> None:
        settle(store)
        store.stop()
        store.stop()
        store.start()
        assert store.host_names() == [HOST]


class ValueContract(StoreCase):
    def kept(self, store: Store, **fields: Any) -> None:
        """Assert that an instance with these fields is read as it was written."""
        writer = settle(store).put(begin(1, node=N1, **fields)).commit()
        assert load(store).node(N1).allocations == writer[N1].allocations
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_text_of_all_languages_is_kept(self, store: Store) -> None:
        text = "naïve Žluťoučký 日本語 עברית 🦊 \u200b\ufeff e\u0301 '\"\\;--%s :x\r\n\t\x01"
        self.kept(store, display_name=text, project_id=text, user_id=text, task_state=text, metadata={text: [text]})

    def test_the_longest_text_is_kept(self, store: Store) -> None:
        longest = "🦊" * 255
        self.kept(store, uuid=longest, project_id=longest, user_id=longest, task_state=longest, os_type=longest)

    def test_empty_text_stays_empty_text(self, store: Store) -> None:
        names = ("project_id", "user_id", "task_state", "os_type", "display_name", "instance_type", "availability_zone")
        self.kept(store, **dict.fromkeys(names, ""))

    def test_none_stays_none(self, store: Store) -> None:
        names = ("vm_state", "project_id", "user_id", "task_state", "os_type", "display_name", "metadata", "created_at")
        self.kept(store, **dict.fromkeys(names))

    def test_the_largest_sizes_are_kept(self, store: Store) -> None:
        self.kept(store, memory_mb=MAX_AMOUNT, root_gb=MAX_AMOUNT, ephemeral_gb=MAX_AMOUNT, vcpus=MAX_AMOUNT)

    def test_custom_classes_are_kept(self, store: Store) -> None:
        classes = {
            "VGPU": {"total": 4, "reserved": 1, "allocation_ratio": 1.5, "step_size": 2},
            "VCPU": {"max_unit": 8},
        }
        named = {"C" * 255: MAX_AMOUNT, **{f"CUSTOM_{number}": 1 for number in range(20)}}
        writer = settle(store).put(ReportNode(node=N1, inventory=inventory(resources={**classes, **named})))
        writer.put(begin(1, node=N1, resources={"VGPU": 2, **named})).put(begin(2, node=N1, resources={"CUSTOM_7": 0}))
        writer.commit()
        kept = load(store).node(N1)
        assert kept.inventory == writer[N1].inventory
        assert kept.usage.to_dict() == {
            "VCPU": 4,
            "MEMORY_MB": 8192 + 512,
            "DISK_GB": 100,
            "VGPU": 3,
            **named,
        }
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_the_largest_usage_is_kept(self, store: Store) -> None:
        """260 claims without limits reach the largest usage that is granted."""
        writer = settle(store)
        for number in range(260):
            writer.put(begin(number, node=N1, root_gb=MAX_AMOUNT, ephemeral_gb=MAX_AMOUNT))
        writer.commit()
        assert load(store).node(N1).usage["DISK_GB"] == MAX_USAGE
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_metadata_of_every_json_type_is_kept(self, store: Store) -> None:
        values = [None, True, False, 0, -1, 2**53, 2**63 - 1, -(2**63), 0.1, -1e300, "", "text", [], {}, [[1, [2.5]]]]
        self.kept(store, metadata={"list": values, "": {"nested": {"deeper": values}}})

    def test_the_deepest_metadata_is_kept(self, store: Store) -> None:
        metadata: dict[str, Any] = {}
        for _ in range(MAX_DEPTH - 1):
            metadata = {"inner": metadata}
        self.kept(store, metadata=metadata)

    def test_changed_facts_replace_the_old_ones(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1, metadata={"a": 1}, display_name="before")).commit()
        Writer(store).put(update(1, node=N1, metadata={}, display_name=None, vcpus=1)).commit()
        instance = load(store).node(N1).allocations[uuid(1)].instance
        assert instance == writer[N1].allocations[uuid(1)].instance.changed(
            {"metadata": {}, "display_name": None, "vcpus": 1}
        )


class StoreContract(
    ProgressContract,
    HostContract,
    ValueContract,
    CommitContract,
    ConflictContract,
    OutboxContract,
    InboxContract,
    AttemptsContract,
    LeaseContract,
    PruneContract,
    CursorContract,
    DeadLetterContract,
    OutcomeContract,
    SilentContract,
    VerifiedContract,
    RefreshedContract,
    LockedContract,
    DeletionContract,
    LifeContract,
    RecordContract,
    HistoryContract,
    AllocationsContract,
    MoveContract,
    InstanceMoveContract,
    SegmentContract,
    ConcurrencyContract,
):
    """The whole contract."""
