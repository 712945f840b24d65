# SPDX-License-Identifier: Apache-2.0
"""What operators do to nodes and hosts: each change is one commit, and every stream of events goes on with its own numbers.

The file is long because every change is tried on all three stores, by the same fixtures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, inventory, node_name, update, uuid
from tests.support.migrated import migrated
from tests.support.store import ALL, Writer, load, register, settle
from tracker_worker.administration import Administration, Refused
from tracker_worker.domain.commands import (
    BeginClaim,
    BeginMove,
    DrainNode,
    FinishClaim,
    ReleaseAllocation,
    ReportList,
    ReportNode,
    RetireNode,
    StepMove,
    UndrainNode,
)
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import FINISH
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.errors import ClaimConflict, InvalidInput, NodeBusy, NodeNotFound
from tracker_worker.store.base import CARETAKER, Commit, Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.store import SQLStore

OTHER = "host-2"
N1, N2 = node_name(1), node_name(2)
LATER = NOW + 3600 * SECOND
ASKED = b'{"method":"node move","user_id":"root","worker":"w"}'


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose time is LATER."""
    if request.param == "memory":
        store: Store = MemoryStore()
    elif request.param == "sqlite":
        store = SQLStore(f"sqlite:///{tmp_path}/tracker.sqlite")
    else:
        store = SQLStore(migrated(request.getfixturevalue("postgresql_url")))
    store.start()
    monkeypatch.setattr(store, "time", lambda: LATER)
    yield store
    store.stop()


@pytest.fixture
def writer(store: Store) -> Writer:
    """host-1 has node-1, which is charged for the instances 1 and 2, and node-2, which is empty."""
    writer = settle(store)
    writer.put(begin(1, node=N1)).commit()
    writer.put(begin(2, node=N1)).commit()
    return writer


@pytest.fixture
def administration(store: Store) -> Administration:
    return Administration(store, notify=True, asked=ASKED)


def told(store: Store, host: str, node: str) -> list[dict[str, Any]]:
    """The payloads of a name's notifications that this change has made."""
    (stream,) = [stream for stream in store.streams(host) if stream.node == node]
    rows = store.outbox(stream.id, after=0, limit=ALL)
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    assert stream.sequence == len(rows)
    assert [row.occurred_at for row in rows] == sorted(row.occurred_at for row in rows)
    return [json.loads(row.payload) for row in rows if row.asked == ASKED]


def node(store: Store, name: str = N1, host: str = HOST) -> NodeLedger:
    return load(store, host).nodes[name]


def listed(*names: str) -> ReportList:
    return ReportList(nodes=frozenset(names))


class TestStates:
    def test_a_drained_node_keeps_what_it_has_and_is_open_again_when_it_is_taken_back(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        administration.decide(HOST, DrainNode(node=N1, reason="disk replaced"))
        drained = node(store)
        assert (drained.life.state, drained.life.reason, drained.generation) == ("draining", "disk replaced", 4)
        assert sorted(drained.allocations) == [uuid(1), uuid(2)]
        administration.decide(HOST, UndrainNode(node=N1))
        assert node(store).life.state == "open"
        states = [(payload["state"], payload["state_reason"]) for payload in told(store, HOST, N1)]
        assert states == [("draining", "disk replaced"), ("open", "")]

    def test_only_an_empty_node_is_retired_and_undrain_takes_it_back(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        with pytest.raises(NodeBusy) as busy:
            administration.decide(HOST, RetireNode(node=N1, reason=""))
        assert busy.value.kwargs["instances"] == [uuid(1), uuid(2)]
        administration.decide(HOST, RetireNode(node=N2, reason="sold"))
        assert node(store, N2).life.state == "retired"
        Writer(store).put(listed(N1, N2)).put(ReportNode(node=N2, inventory=inventory())).commit()
        assert node(store, N2).life.state == "retired"
        administration.decide(HOST, UndrainNode(node=N2))
        assert node(store, N2).life.state == "open"

    def test_an_instance_is_released_by_an_operator(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        command = ReleaseAllocation(uuid=uuid(1), reason="ghost", released_by="root")
        assert administration.decide(HOST, command)["instance_uuid"] == uuid(1)
        assert sorted(node(store).allocations) == [uuid(2)]
        assert administration.decide(HOST, command) is None

    @pytest.mark.parametrize("command", [DrainNode(node="x", reason="r"), UndrainNode(node="x")])
    def test_an_unknown_node_or_host_is_refused(
        self, writer: Writer, administration: Administration, command: DrainNode | UndrainNode
    ) -> None:
        with pytest.raises(NodeNotFound):
            administration.decide(HOST, command)
        with pytest.raises(Refused, match="the database has no host x"):
            administration.decide("x", command)

    def test_what_changes_nothing_commits_nothing(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        administration.decide(HOST, UndrainNode(node=N1))
        assert node(store).generation == 3


class TestRename:
    def test_charges_and_claims_go_along_and_each_name_goes_on_with_its_own_numbers(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        before = node(store)
        administration.move_node(N1, host=HOST, to=HOST, name="rack-1")
        after = node(store, "rack-1")
        assert list(load(store).nodes) == ["rack-1", N2]
        assert (after.id, after.allocations, after.begun) == (before.id, before.allocations, before.begun)
        assert (after.generation, after.sequence, after.last_at) == (4, 1, LATER)
        (last,), (first,) = told(store, HOST, N1), told(store, HOST, "rack-1")
        assert (last["next_host"], last["next_node"], last["node"]) == (HOST, "rack-1", N1)
        assert (first["previous_host"], first["previous_node"], first["node"]) == (HOST, N1, "rack-1")
        assert (last["sequence"], first["sequence"], first["running_vms"]) == (4, 1, 2)
        Writer(store).put(FinishClaim(claim_id=uuid(1))).put(update(2, vm_state="deleted")).commit()
        assert sorted(node(store, "rack-1").allocations) == [uuid(1)]

    def test_a_name_that_comes_back_goes_on_where_it_was(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        for old, new in ((N1, "rack-1"), ("rack-1", N1)):
            administration.move_node(old, host=HOST, to=HOST, name=new)
        assert [payload["sequence"] for payload in told(store, HOST, N1)] == [4, 5]
        assert [payload["sequence"] for payload in told(store, HOST, "rack-1")] == [1, 2]
        assert node(store).sequence == 5

    def test_no_name_sees_a_generation_that_falls(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        administration.move_node(N1, host=HOST, to=HOST, name="new")
        left_at = told(store, HOST, N1)[-1]["generation"]
        store.create_node(load(store).id, N1)
        Writer(store).put(ReportNode(node=N1, inventory=inventory()), LATER).commit()
        assert node(store, N1).generation > left_at
        administration.move_node("new", host=HOST, to=HOST, name="newer")
        assert node(store, N2).generation < node(store, N1).generation
        administration.move_node(N2, host=HOST, to=HOST, name="new")
        generations = [payload["generation"] for payload in told(store, HOST, "new")]
        assert len(generations) == 3
        assert generations == sorted(generations)

    def test_records_of_moves_that_name_the_node_leave_its_generation_as_high(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        writer.put(FinishClaim(claim_id=uuid(1))).commit()
        writer.put(BeginMove(begin=begin(1, node=N2), id="m1", kind="resize")).commit()
        writer.put(StepMove(id="m1", step=FINISH, remembers=SECOND)).commit()
        administration.move_node(N1, host=HOST, to=HOST, name="old")
        known = node(store, "old").generation
        administration.move_node("old", host=HOST, to=HOST, name="older")
        assert node(store, N2).generation < known
        administration.move_node(N2, host=HOST, to=HOST, name="old")
        assert node(store, "old").generation > known
        assert node(store, "old").moves["m1"].to_node == "old"

    def test_an_empty_node_that_knows_a_move_of_the_node_is_replaced_with_what_it_knows(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        writer.put(FinishClaim(claim_id=uuid(1))).commit()
        writer.put(BeginMove(begin=begin(1, node=N2), id="m1", kind="resize")).commit()
        writer.put(StepMove(id="m1", step=FINISH, remembers=SECOND)).commit()
        writer.put(update(1, vm_state="deleted")).commit()
        administration.move_node(N1, host=HOST, to=HOST, name=N2)
        assert list(node(store, N2).allocations) == [uuid(2)]

    def test_an_empty_node_of_the_new_name_gives_its_inventory_and_its_place_in_the_list(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        for _ in range(3):  # its generation is above that of the other node
            writer.put(ReportNode(node=N2, inventory=None, failure="gone")).commit()
            writer.put(ReportNode(node=N2, inventory=inventory(vcpus=48))).commit()
        writer.put(listed(N2)).commit()
        assert node(store).life.state == "missing"
        generation = node(store, N2).generation
        administration.move_node(N1, host=HOST, to=HOST, name=N2)
        renamed = node(store, N2)
        assert list(load(store).nodes) == [N2]
        assert (renamed.life.state, renamed.inventory) == ("open", inventory(vcpus=48))
        assert renamed.generation == generation + 1
        assert sorted(renamed.allocations) == [uuid(1), uuid(2)]
        (first,) = told(store, HOST, N2)
        assert (first["sequence"], first["previous_node"], first["vcpus"]) == (8, N1, 48)

    def test_a_name_that_is_charged_is_refused(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        writer.put(begin(3, node=N2)).commit()
        with pytest.raises(NodeBusy) as busy:
            administration.move_node(N1, host=HOST, to=HOST, name=N2)
        assert (busy.value.kwargs["node"], busy.value.kwargs["instances"]) == (N2, [uuid(3)])
        assert told(store, HOST, N1) == []

    @pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
    def test_a_name_that_no_node_can_have_is_refused(
        self, writer: Writer, administration: Administration, name: str
    ) -> None:
        with pytest.raises(InvalidInput):
            administration.move_node(N1, host=HOST, to=HOST, name=name)

    def test_the_present_name_is_refused(self, writer: Writer, administration: Administration) -> None:
        with pytest.raises(Refused, match="has this name already"):
            administration.move_node(N1, host=HOST, to=HOST, name=N1)

    def test_a_decision_on_the_old_name_is_a_conflict(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        late = Writer(store).put(begin(3, node=N1))
        administration.move_node(N1, host=HOST, to=HOST, name="rack-1")
        with pytest.raises(Conflict):
            late.commit()

    def test_a_worker_that_has_seen_the_old_name_goes_on_in_the_same_history(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        ledgers = Ledgers(store)
        assert ledgers.get(HOST).nodes[N1].sequence == 3
        administration.move_node(N1, host=HOST, to=HOST, name="rack-1")
        ledgers.refresh([HOST])
        assert ledgers.get(HOST).nodes["rack-1"].sequence == 1
        assert ledgers.lost(ledgers.verify()) == []


class TestMove:
    def test_a_node_goes_to_another_host_with_everything(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        settle(store, host=OTHER, nodes=1)
        writer.put(listed(N2)).put(update(9, vm_state="deleted")).commit()
        administration.move_node(N1, host=HOST, to=OTHER, name=N1)
        assert (list(load(store).nodes), list(load(store, OTHER).nodes)) == ([N2], [N1])
        moved = node(store, host=OTHER)
        assert (moved.life.state, sorted(moved.allocations)) == ("open", [uuid(1), uuid(2)])
        (last,), (first,) = told(store, HOST, N1), told(store, OTHER, N1)
        assert (last["host"], last["next_host"], last["next_node"]) == (HOST, OTHER, N1)
        assert (first["host"], first["previous_host"], first["previous_node"]) == (OTHER, HOST, N1)
        assert first["sequence"] == 2
        assert Writer(store, OTHER).put(update(1, vm_state="deleted")).commit().host.holding(uuid(1)) is None

    def test_both_hosts_remember_the_deletions_that_the_node_remembers(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        """They were reported to the host that the node leaves, and their claims may come to its other nodes."""
        settle(store, host=OTHER, nodes=1)
        writer.put(listed(N2)).put(update(7, noted=True, node=N1, vm_state="deleted")).commit()
        administration.move_node(N1, host=HOST, to=OTHER, name=N1)
        assert load(store).node(N2).deletions == load(store, OTHER).node(N1).deletions == {uuid(7): NOW}
        administration.move_node(N1, host=OTHER, to=HOST, name=N1)
        assert (load(store).deleted_at(uuid(7)), list(load(store, OTHER))) == (NOW, [])

    def test_the_host_remembers_which_instances_have_left_it(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        """Else what was evacuated would be released once more, from the host's other nodes."""
        there = settle(store, host=OTHER, nodes=1)
        move = BeginMove(begin=begin(1, node=N1), id="m1", kind="evacuation", from_host=HOST, from_node=N1)
        there.put(move).put(StepMove(id="m1", step=FINISH, remembers=3600 * SECOND)).commit()
        (untold,) = store.untold_moves(limit=9)
        writer.put(listed(N2)).commit()
        writer.put(StepMove(id="m1", step=FINISH, told=untold, remembers=3600 * SECOND)).commit()
        assert store.untold_moves(limit=9) == []
        administration.move_node(N1, host=HOST, to=OTHER, name="other")
        assert store.untold_moves(limit=9) == []
        assert [host for host, _ in store.moves(limit=9)] == [HOST, OTHER]

    def test_a_node_stays_until_its_host_knows_which_of_its_instances_have_left(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        """Else the word of the hand-over would find the instance neither here nor there, and it would be charged for good."""
        there = settle(store, host=OTHER, nodes=1)
        settle(store, host="host-3", nodes=1)
        move = BeginMove(begin=begin(1, node=N1), id="m1", kind="live_migration", from_host=HOST, from_node=N1)
        there.put(move).put(StepMove(id="m1", step=FINISH, remembers=3600 * SECOND)).commit()
        (untold,) = store.untold_moves(limit=9)
        with pytest.raises(Refused, match=f"host {HOST} was not told that instances have left it: .* m1"):
            administration.move_node(N1, host=HOST, to="host-3", name="other")
        writer.put(StepMove(id="m1", step=FINISH, told=untold, remembers=3600 * SECOND)).commit()
        assert administration.move_node(N1, host=HOST, to="host-3", name="other").name == "other"

    def test_the_time_of_a_node_does_not_fall_with_its_name(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        """Seed 8200042 of the simulation: the clock was stepped back, and then the node got the name of another one."""
        later = NOW + 20 * 365 * 86400 * SECOND
        writer.put(update(1, vm_state="stopped"), later).commit()
        settle(store, host=OTHER, nodes=1)
        administration.move_node(N1, host=HOST, to=OTHER, name="other")
        (first, *_) = told(store, OTHER, "other")
        assert first["occurred_at"] == iso(later)

    def test_an_instance_that_both_hosts_are_charged_for_is_a_conflict(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        settle(store, host=OTHER, nodes=2).put(begin(2, node=N2)).commit()
        with pytest.raises(ClaimConflict) as conflict:
            administration.move_node(N1, host=HOST, to=OTHER, name=N1)
        assert conflict.value.kwargs["instance_uuid"] == uuid(2)
        assert told(store, HOST, N1) == []

    @pytest.mark.parametrize("place", [(HOST, N1), (HOST, N2), (OTHER, N1)])
    @pytest.mark.parametrize("handed_over", [False, True])
    def test_a_node_stays_with_its_host_while_its_instances_move(
        self, store: Store, writer: Writer, administration: Administration, place: tuple[str, str], handed_over: bool
    ) -> None:
        settle(store, host="host-3", nodes=1)
        there = writer if place[0] == HOST else settle(store, host=OTHER, nodes=1)
        there.put(BeginMove(begin=begin(1, node=place[1]), id="m1", kind="resize")).commit()
        if handed_over:
            there.put(StepMove(id="m1", step=FINISH, remembers=3600 * SECOND)).commit()
        if not handed_over or place[0] == HOST:
            with pytest.raises(Refused, match=f"1 instance of node {N1} of host {HOST} are moving: .*: {uuid(1)}"):
                administration.move_node(N1, host=HOST, to="host-3", name=N1)
        elif handed_over:
            with pytest.raises(ClaimConflict):
                administration.move_node(N1, host=HOST, to=OTHER, name="other")
        if place[0] == HOST:
            assert administration.move_node(N1, host=HOST, to=HOST, name="renamed").name == "renamed"

    @pytest.mark.parametrize(
        "there", [begin(3, node=N2, more={"claim_id": "c"}), begin(3, node=N2, more={"claim_id": uuid(1)})]
    )
    def test_a_claim_of_the_same_name_on_the_other_host_is_a_conflict(
        self, store: Store, writer: Writer, administration: Administration, there: BeginClaim
    ) -> None:
        writer.put(begin(4, node=N1, more={"claim_id": "c"})).commit()
        settle(store, host=OTHER, nodes=2).put(there).commit()
        with pytest.raises(ClaimConflict) as conflict:
            administration.move_node(N1, host=HOST, to=OTHER, name=N1)
        assert conflict.value.kwargs["instance_uuid"] == uuid(3)
        assert "has a claim of the name" in conflict.value.kwargs["reason"]
        assert told(store, HOST, N1) == []

    def test_an_unknown_host_is_refused(self, writer: Writer, administration: Administration) -> None:
        with pytest.raises(Refused, match="the database has no host host-2"):
            administration.move_node(N1, host=HOST, to=OTHER, name=N1)


class TestHosts:
    @pytest.mark.parametrize("exists", [False, True])
    def test_a_host_gets_another_name(
        self, store: Store, writer: Writer, administration: Administration, exists: bool
    ) -> None:
        if exists:
            settle(store, host=OTHER, nodes=1)
        administration.rename_host(HOST, OTHER)
        assert store.host_names() == [OTHER]
        host = load(store, OTHER)
        assert sorted(host.nodes) == [N1, N2]
        assert sorted(host.nodes[N1].allocations) == [uuid(1), uuid(2)]
        for name in (N1, N2):
            (last,), (first,) = told(store, HOST, name), told(store, OTHER, name)
            assert (last["next_host"], last["next_node"]) == (OTHER, name)
            assert (first["previous_host"], first["previous_node"]) == (HOST, name)

    def test_a_worker_that_has_seen_the_old_name_goes_on_in_the_same_history(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        ledgers = Ledgers(store)
        ledgers.get(HOST)
        administration.rename_host(HOST, OTHER)
        ledgers.forget([HOST])
        assert ledgers.find(HOST) is None
        assert ledgers.get(OTHER).nodes[N1].sequence == 1

    def test_a_host_that_is_charged_is_not_replaced(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        settle(store, host=OTHER, nodes=1).put(begin(3)).commit()
        with pytest.raises(Refused, match=f"host host-2 is charged for 1 instance: {uuid(3)}"):
            administration.rename_host(HOST, OTHER)
        assert store.host_names() == [HOST, OTHER]

    def test_a_host_that_is_served_is_neither_renamed_nor_forgotten(
        self, store: Store, administration: Administration
    ) -> None:
        ids = {name: register(store, name) for name in (HOST, OTHER)}
        store.take_lease([ids[OTHER]], "worker-1", now=LATER, until=LATER + 1)
        for change in (
            lambda: administration.rename_host(HOST, OTHER),
            lambda: administration.rename_host(OTHER, HOST),
            lambda: administration.forget_host(OTHER),
        ):
            with pytest.raises(Refused, match="host host-2 is served by worker worker-1"):
                change()
        store.take_lease([ids[OTHER]], f"worker-1{CARETAKER}", now=LATER, until=LATER + 1, force=True)
        administration.forget_host(OTHER)
        assert store.host_names() == [HOST]

    def test_only_an_empty_host_is_forgotten_and_its_names_never_start_over(
        self, store: Store, writer: Writer, administration: Administration
    ) -> None:
        with pytest.raises(Refused, match=f"host host-1 is charged for 2 instances: {uuid(1)}, {uuid(2)}"):
            administration.forget_host(HOST)
        for number in (1, 2):
            Writer(store).put(update(number, vm_state="deleted")).commit()
        administration.forget_host(HOST)
        assert store.host_names() == []
        store.create_node(register(store), N1)
        assert node(store).sequence == 5


def test_a_change_is_made_again_when_another_writer_was_first(
    store: Store, writer: Writer, administration: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = store.commit, [3, 4]

    def commit(made: Commit) -> None:
        if others:
            number = others.pop()
            with monkeypatch.context() as within:
                within.setattr(store, "commit", real)
                Writer(store).put(begin(number, node=N1)).commit()
        real(made)

    monkeypatch.setattr(store, "commit", commit)
    administration.move_node(N1, host=HOST, to=HOST, name="rack-1")
    assert sorted(node(store, "rack-1").allocations) == [uuid(number) for number in (1, 2, 3, 4)]


def test_without_end_it_is_refused(
    store: Store, writer: Writer, administration: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(made: Commit) -> None:
        raise Conflict("a node has another generation")

    monkeypatch.setattr(store, "commit", refuse)
    with pytest.raises(Refused, match="other writers were first 50 times: a node has another generation"):
        administration.decide(HOST, DrainNode(node=N1, reason="r"))


def test_without_notifications_none_is_made(store: Store, writer: Writer) -> None:
    Administration(store, notify=False).move_node(N1, host=HOST, to=HOST, name="rack-1")
    sequences: Sequence[int] = [stream.sequence for stream in store.streams(HOST)]
    assert sequences == [4, 1, 1]
