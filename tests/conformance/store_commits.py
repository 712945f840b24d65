# SPDX-License-Identifier: Apache-2.0
"""A commit writes all of its rows, and a commit that is refused writes no row."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import HOST, NOW, begin, inventory, node_name, update, uuid
from tests.support.store import (
    ALL,
    TOPIC,
    StoreCase,
    Writer,
    answer,
    cursors,
    load,
    note,
    picture,
    settle,
    snapshots,
    uuids,
)
from tracker_worker.domain.commands import AbortClaim, ExpireClaims, FinishClaim, ReportNode
from tracker_worker.domain.resources import MAX_AMOUNT
from tracker_worker.domain.states import TASK_STATES, VM_STATES
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Commit, Conflict, Store

N1, N2 = node_name(1), node_name(2)
# No other notification has this sequence number.
FREE = 50

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        "vcpus": st.integers(0, 64),
        "memory_mb": st.integers(0, MAX_AMOUNT),
        "root_gb": st.integers(0, MAX_AMOUNT),
        "vm_state": st.none() | st.sampled_from(sorted(VM_STATES)),
        "task_state": st.none() | st.sampled_from(sorted(TASK_STATES)),
        "os_type": st.none() | _text,
        "project_id": st.none() | _text,
        "user_id": st.none() | _text,
        "display_name": st.none() | _text,
        "launched_at": st.sampled_from([None, "", "2026-01-15T12:00:03Z"]),
        "image_meta": st.dictionaries(_text, _json, max_size=2),
        "metadata": st.dictionaries(_text, _json, max_size=2),
    },
)
_number = st.integers(1, 4)
_node = st.sampled_from([N1, N2])
_command = st.one_of(
    st.builds(
        lambda number, node, limits, fields: begin(number, node=node, limits=limits, **fields),
        _number,
        _node,
        st.sampled_from([None, {"vcpu": 16}]),
        _fields,
    ),
    st.builds(lambda number, node, fields: update(number, node=node, **fields), _number, _node, _fields),
    st.builds(lambda number: FinishClaim(claim_id=uuid(number)), _number),
    st.builds(lambda number: AbortClaim(claim_id=uuid(number)), _number),
    st.builds(lambda node, release: ExpireClaims(node=node, release=release), _node, st.booleans()),
    st.builds(lambda node: ReportNode(node=node, inventory=None), _node),
    st.builds(lambda node, vcpus: ReportNode(node=node, inventory=inventory(vcpus=vcpus)), _node, st.integers(0, 64)),
)
_batches = st.lists(st.tuples(st.integers(0, 400), st.lists(_command, max_size=5)), max_size=8)


class CommitContract(StoreCase):
    @settings(
        max_examples=25,
        deadline=None,
        # Each example has its own host instead of its own store, and the suite runs once for each implementation.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(batches=_batches)
    def test_a_loaded_ledger_equals_the_committed_ledger(self, store: Store, batches) -> None:
        writer = settle(store, host=f"host-{len(store.host_names())}")
        now = NOW
        for seconds, commands in batches:
            now += seconds * SECOND
            for command in commands:
                writer.put(command, now)
            writer.commit()
            assert snapshots(load(store, writer.host.name)) == snapshots(writer.host)

    def test_an_empty_commit_changes_nothing(self, store: Store) -> None:
        settle(store)
        before = picture(store)
        store.commit(Commit())
        assert picture(store) == before

    def test_a_commit_writes_only_touched_allocations(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N1))
        del writer[N1].touched[writer[N1].allocations[uuid(1)].id]
        writer.commit()
        assert uuids(list(load(store))) == [uuid(2)]

    def test_a_node_that_is_not_in_the_commit_is_not_written(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N2))
        store.commit(Commit(ledgers=[writer[N1]]))
        assert uuids(list(load(store))) == [uuid(1)]
        assert (load(store).node(N2).generation, load(store).node(N2).sequence) == (1, 1)

    def test_a_released_instance_may_be_charged_to_another_node_later(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        writer.put(AbortClaim(claim_id=uuid(1))).commit()
        writer.put(begin(1, node=N2)).commit()
        assert list(load(store).node(N1).allocations) == []
        assert list(load(store).node(N2).allocations) == [uuid(1)]

    def test_an_instance_may_move_to_another_node_within_a_commit(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N2)).commit()
        for number, target in ((1, N2), (2, N1)):
            writer.put(AbortClaim(claim_id=uuid(number))).put(begin(number, node=target))
        writer.commit()
        assert list(load(store).node(N1).allocations) == [uuid(2)]
        assert list(load(store).node(N2).allocations) == [uuid(1)]
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_the_same_instance_may_be_charged_on_two_hosts(self, store: Store) -> None:
        for host in ("host-1", "host-2"):
            settle(store, host=host).put(begin(1, node=N1)).commit()
        for host in ("host-1", "host-2"):
            assert uuids(list(load(store, host))) == [uuid(1)]


class ConflictContract(StoreCase):
    """The refused commit of each test has rows for every table, and one error."""

    def refused(self, store: Store, writer: Writer, **parts) -> None:
        before = picture(store, "u-1", "u-2", "u-3")
        with pytest.raises(Conflict):
            store.commit(
                Commit(
                    ledgers=parts.get("ledgers", list(writer.host)),
                    notifications=parts.get("notifications", writer.notifications),
                    inbox_rows=parts.get("inbox_rows", [answer("u-2")]),
                    cursors={(ledger.stream_id, TOPIC): 1 for ledger in writer.host},
                )
            )
        assert picture(store, "u-1", "u-2", "u-3") == before
        assert store.answered(["u-2"]) == {}
        assert set(cursors(store).values()) == {0}

    def test_a_stale_generation_changes_nothing(self, store: Store, second: Store) -> None:
        settle(store)
        stale, faster = Writer(store), Writer(second)
        faster.put(begin(1, node=N1)).commit()
        self.refused(store, stale.put(begin(2, node=N1)), notifications=[note(stale[N1], FREE)])

    def test_one_stale_node_among_several_changes_nothing(self, store: Store, second: Store) -> None:
        settle(store, nodes=3)
        for number in (1, 2, 3):
            stale, faster = Writer(store), Writer(second)
            faster.put(begin(number, node=node_name(number))).commit()
            for each in (1, 2, 3):
                stale.put(begin(10 + each, node=node_name(each)))
            self.refused(store, stale, notifications=[note(ledger, FREE) for ledger in stale.host])

    def test_a_stale_release_changes_nothing(self, store: Store, second: Store) -> None:
        settle(store).put(begin(1, node=N1)).commit()
        stale, faster = Writer(store), Writer(second)
        faster.put(FinishClaim(claim_id=uuid(1))).commit()
        self.refused(store, stale.put(AbortClaim(claim_id=uuid(1))), notifications=[note(stale[N1], FREE)])

    def test_a_generation_newer_than_the_stored_one_changes_nothing(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        writer[N1].stored_generation += 1
        self.refused(store, writer, notifications=[note(writer[N1], FREE)])

    def test_after_a_conflict_a_fresh_ledger_can_be_committed(self, store: Store, second: Store) -> None:
        settle(store)
        stale, faster = Writer(store), Writer(second)
        faster.put(begin(1, node=N1)).commit()
        self.refused(store, stale.put(begin(2, node=N1)))
        Writer(store).put(begin(2, node=N1)).commit(answer("u-2"))
        assert uuids(list(load(second))) == [uuid(1), uuid(2)]
        assert second.answered(["u-2"]) == {"u-2": answer("u-2").reply}

    def test_a_second_inbox_row_of_an_answered_message_changes_nothing(self, store: Store, second: Store) -> None:
        settle(second).commit(answer("u-1"))
        writer = Writer(store).put(begin(1, node=N1))
        self.refused(store, writer, inbox_rows=[answer("u-2"), answer("u-1"), answer("u-3")])

    def test_two_inbox_rows_of_one_message_in_a_commit_change_nothing(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        self.refused(store, writer, inbox_rows=[answer("u-2"), answer("u-2")])

    def test_a_sequence_that_exists_already_changes_nothing(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        self.refused(store, writer, notifications=[note(writer[N1], 2), note(writer[N1], 1)])

    def test_two_notifications_with_one_sequence_in_a_commit_change_nothing(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        self.refused(store, writer, notifications=[note(writer[N1], 2), note(writer[N1], 2)])

    def test_the_same_sequence_number_on_two_nodes_is_no_conflict(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N2)).commit()
        for ledger in writer.host:
            assert [row.sequence for row in store.outbox(ledger.stream_id, after=0, limit=ALL)] == [1, 2]

    def test_a_claim_for_an_instance_that_another_node_holds_changes_nothing(self, store: Store, second: Store) -> None:
        settle(store)
        stale, faster = Writer(store), Writer(second)
        faster.put(begin(1, node=N1, display_name="first")).commit()
        self.refused(
            store, stale.put(begin(2, node=N2)).put(begin(1, node=N2, display_name="late")), ledgers=[stale[N2]]
        )
        assert load(store).node(N1).allocations == faster[N1].allocations

    def test_an_instance_on_two_nodes_in_one_commit_changes_nothing(self, store: Store) -> None:
        writer, other = settle(store), Writer(store)
        writer.put(begin(1, node=N1))
        other.put(begin(1, node=N2))
        self.refused(store, writer, ledgers=[writer[N1], other[N2]])

    def test_a_commit_of_one_node_does_not_delete_the_row_of_another_node(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        writer.put(begin(2, node=N2))
        writer[N2].noted.add(uuid(1))
        writer.commit()
        assert list(load(store, HOST).node(N1).allocations) == [uuid(1)]
