# SPDX-License-Identifier: Apache-2.0
"""Moves of instances: right runs have no violation, and each wrong one has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.check import check
from tests.invariants.record import ERROR, RESULT, SENT, Evidence, Heard, StoredAllocation
from tests.invariants.scene import PLACE, Scene, changed, only
from tests.support.bill import micros
from tests.support.builders import HOST, instance_dict, uuid
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso

OTHER = "compute-2"
NODE = PLACE[1]
MOVE = uuid(500)


class TwoHosts(Scene):
    """An instance is charged on the first host. Steps are asked for at a host by ``at``."""

    def __init__(self) -> None:
        super().__init__(nodes=2, hosts=(HOST, OTHER))
        self.begin(1)
        self.call("finish_resource_claim", claim_id=uuid(1))
        self.move: dict[str, Any] = {}

    def at(self, host: str, method: str, **args: Any) -> Any:
        self.host = host
        request = self.call(method, **args)
        self.host = HOST
        return request.reply

    def begin_move(
        self, kind: str = "resize", host: str = OTHER, node: str = NODE, move_id: str = MOVE, **more: Any
    ) -> Any:
        move = {"id": move_id, "kind": kind, "from_host": HOST, "from_node": None}
        instance = instance_dict(1, node=node, vcpus=3)
        self.move = self.at(host, "begin_move_claim", instance=instance, move=move, **more) or self.move
        return self.move

    def step(self, step: str, host: str, **more: Any) -> Any:
        reply = self.at(host, f"{step}_move", move_id=MOVE, move=dict(self.move), **more)
        self.move = reply if host == OTHER or self.move["to_host"] == HOST else self.move
        return reply

    def hand_over(self) -> None:
        done = self.step("finish", OTHER)
        self.step("finish", HOST, effective_at=done["finished_at"])


@pytest.fixture
def scene() -> TwoHosts:
    """An instance that was handed over to another host, and is held at its source."""
    scene = TwoHosts()
    scene.begin_move()
    scene.hand_over()
    return scene


def one_of(scene: Scene, what: str, host: str = OTHER) -> Heard:
    return next(one for one in scene.heard if one.event_type == f"tracker.move.{what}" and one.place[0] == host)


def altered(scene: Scene, old: Heard, **payload: Any) -> Evidence:
    """The run in which a notification said something else, and the outbox has it so."""
    new = changed(old, **payload)
    nodes = scene.books()
    rows = [
        replace(row, payload=new.payload) if row.message_id == old.message_id else row
        for row in nodes[old.place].issued
    ]
    nodes[old.place] = replace(nodes[old.place], issued=rows)
    return scene.evidence(heard=[new if one is old else one for one in scene.heard], nodes=nodes)


def without(scene: Scene, gone: Heard) -> Evidence:
    """The run in which the node was charged as well, but a later notification is in the place of one that is gone."""
    kept = [
        changed(one, sequence=one.sequence - 1) if one.place == gone.place and one.sequence > gone.sequence else one
        for one in scene.heard
        if one is not gone
    ]
    nodes = scene.books()
    rows = [
        replace(row, sequence=row.sequence - 1, payload={**row.payload, "sequence": row.sequence - 1})
        if row.sequence > gone.sequence
        else row
        for row in nodes[gone.place].issued
        if row.message_id != gone.message_id
    ]
    less = nodes[gone.place].sequence - 1
    nodes[gone.place] = replace(nodes[gone.place], issued=rows, sequence=less, cursor=less)
    return scene.evidence(heard=kept, nodes=nodes)


# --- right runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["confirm", "revert"])
@pytest.mark.parametrize(("host", "node"), [(OTHER, NODE), (HOST, "node-2"), (HOST, NODE)])
def test_whole_moves_are_right(end: str, host: str, node: str) -> None:
    scene = TwoHosts()
    scene.begin_move(host=host, node=node, limits={"vcpu": 30})
    scene.view()
    done = scene.step("finish", host)
    scene.step("fail", host)
    if host == OTHER:
        scene.step("finish", HOST, effective_at=done["finished_at"])
    scene.listing()
    if end == "revert" and host == OTHER:
        done = scene.step("revert", OTHER)
    more = {"effective_at": done["ended_at"]} if done["ended_at"] else {}
    scene.step(end, HOST, **more)
    scene.view()
    scene.at(host, "begin_move_claim", instance=instance_dict(1, vcpus=3), move={"id": MOVE, "kind": "resize"})

    assert check(scene.evidence()) == []


def test_moves_that_end_before_the_hand_over_are_right() -> None:
    scene = TwoHosts()
    scene.begin_move(limits={"vcpu": 1}, move_id=uuid(600))
    scene.begin_move(on_expiry="release")
    scene.host = OTHER
    scene.expire()
    scene.step("finish", OTHER)
    scene.step("confirm", HOST)

    assert check(scene.evidence()) == []


def test_a_deletion_while_an_instance_moves_is_right(scene: TwoHosts) -> None:
    for host in (HOST, OTHER):
        scene.at(host, "update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})
    scene.step("confirm", HOST)

    assert check(scene.evidence()) == []


def test_a_node_that_gets_another_name_takes_along_what_it_holds(scene: TwoHosts) -> None:
    scene.rename("new")
    scene.step("confirm", HOST)

    assert check(scene.evidence()) == []


# --- what one node says ------------------------------------------------------------------------------------------------


def test_a_hold_that_is_not_charged_is_found(scene: TwoHosts) -> None:
    books = scene.books()[PLACE]
    usage = {name: books.usage[name] - held.resources[name] for held in books.moving.values() for name in books.usage}
    nodes = {**scene.books(), PLACE: replace(books, moving={}, usage=usage)}

    assert only(scene.evidence(nodes=nodes)).startswith(
        f"Node {HOST}/{NODE} is not charged for instance {uuid(1)} (hold)"
    )


def test_a_hold_that_nobody_told_of_is_found(scene: TwoHosts) -> None:
    scene.step("confirm", HOST)
    other = StoredAllocation(
        claim_id="c", resources=dict.fromkeys(("VCPU", "MEMORY_MB", "DISK_GB"), 0), claim_state="x"
    )
    nodes = {**scene.books(), PLACE: replace(scene.books()[PLACE], moving={(uuid(1), "hold"): other})}

    assert "of which the notifications know nothing" in only(scene.evidence(nodes=nodes))


@pytest.mark.parametrize(
    ("what", "host", "payload", "says"),
    [
        ("finished", HOST, {"role": ""}, "of which the notifications know nothing"),
        ("finished", HOST, {"claim_id": "another"}, "which is not charged"),
        ("finished", OTHER, {"claim_id": "another"}, "which is not incoming there"),
        ("finished", OTHER, {"charged": {"VCPU": 9, "MEMORY_MB": 9, "DISK_GB": 9}}, "is charged; it is"),
        ("begun", OTHER, {"role": "hold"}, "is hold as"),
    ],
)
def test_contradictions_of_a_node_are_found(
    scene: TwoHosts, what: str, host: str, payload: dict[str, Any], says: str
) -> None:
    assert any(says in violation for violation in check(altered(scene, one_of(scene, what, host), **payload)))


def test_a_step_that_is_taken_twice_is_found(scene: TwoHosts) -> None:
    scene.step("confirm", HOST)
    confirmed = one_of(scene, "confirmed", HOST)
    event_type = "tracker.move.confirmed"
    finished = one_of(scene, "finished", HOST)
    nodes = scene.books()
    rows = [
        replace(row, event_type=event_type) if row.message_id == finished.message_id else row
        for row in nodes[PLACE].issued
    ]
    nodes[PLACE] = replace(nodes[PLACE], issued=rows)
    heard = [replace(one, event_type=event_type) if one is finished else one for one in scene.heard]
    violations = check(scene.evidence(heard=heard, nodes=nodes))

    assert any("says confirmed of the move" in one and "which was not known before" in one for one in violations)
    assert any(f"sequence {confirmed.sequence}" in one and "which was confirmed before" in one for one in violations)


def test_two_nodes_that_have_an_instance_as_incoming_are_found() -> None:
    scene = TwoHosts()
    scene.begin_move()
    there = OTHER, NODE
    other = replace(scene.books()[there], moving=scene.books()[there].moving)
    violations = check(scene.evidence(nodes={**scene.books(), PLACE: replace(other, sequence=0, issued=[], cursor=0)}))

    assert any("is incoming on" in violation for violation in violations)


# --- both sides, and the bill ------------------------------------------------------------------------------------------


def test_two_times_of_a_hand_over_are_found() -> None:
    scene = TwoHosts()
    scene.begin_move()
    done = scene.step("finish", OTHER)
    scene.step("finish", HOST, effective_at=iso(micros(done["finished_at"]) + SECOND // 2))
    violations = check(scene.evidence())

    assert any("is told at different times" in violation for violation in violations)
    assert any("is billed twice at a time" in violation for violation in violations)


def test_a_gap_in_the_bill_is_found(scene: TwoHosts) -> None:
    there = one_of(scene, "finished")
    late = there.payload["effective_at"].replace("2026", "2027")
    violations = check(altered(scene, there, effective_at=late))

    assert any("is billed to nobody between" in violation for violation in violations)
    assert any("counts from" in violation and ", after the event, at" in violation for violation in violations)


# --- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (lambda reply: {**reply, "state": "reverted"}, "is reverted, which no notification says"),
        (lambda reply: {**reply, "finished_at": "2026-01-15T12:00:00.000001Z"}, "was told finished_at"),
        (lambda reply: {**reply, "finished_at": "", "state": "begun"}, "although it was to take that step"),
    ],
)
def test_a_wrong_answer_is_found(scene: TwoHosts, alter: Callable[[Any], Any], says: str) -> None:
    asked = next(request for request in scene.requests if request.method == "finish_move")
    reply = alter(asked.reply)
    scene.requests[scene.requests.index(asked)] = replace(asked, reply=reply)
    scene.inbox[asked.unique_id] = {"result": reply, "failure": None}

    assert any(says in violation for violation in check(scene.evidence()))


def test_an_answer_from_an_older_state_is_found(scene: TwoHosts) -> None:
    begun = next(request for request in scene.requests if request.method == "begin_move_claim")
    scene.host = OTHER
    scene.sent("begin_move_claim", begun.args, call=True, outcome=RESULT, reply=begun.reply)

    assert "was told that the move is begun, after" in only(scene.evidence())


def test_a_move_that_is_granted_against_its_limits_is_found() -> None:
    scene = TwoHosts()
    scene.begin_move(limits={"vcpu": 20})
    scene.requests[-1] = replace(scene.requests[-1], args={**scene.requests[-1].args, "limits": {"vcpu": 2}})

    assert "against its limits" in only(scene.evidence())


def test_a_refusal_that_nobody_told_of_is_found() -> None:
    scene = TwoHosts()
    scene.begin_move(limits={"vcpu": 2})

    assert "which no notification says" in only(without(scene, one_of(scene, "rejected")))


@pytest.mark.parametrize("host", [HOST, OTHER])
def test_a_revert_that_is_refused_is_found(scene: TwoHosts, host: str) -> None:
    scene.host = host
    scene.sent(
        "revert_move", {"move_id": MOVE}, call=True, outcome=ERROR, error="claim_conflict", facts={"reason": "no room"}
    )

    assert "was refused, although nothing else has happened" in only(scene.evidence())


def test_a_step_that_nobody_has_asked_for_is_found(scene: TwoHosts) -> None:
    scene.step("confirm", HOST)
    scene.requests.pop()

    assert "confirmed of instance" in only(scene.evidence())


def test_a_cast_without_an_effect_is_found() -> None:
    scene = TwoHosts()
    scene.begin_move()
    scene.host = OTHER
    scene.sent("finish_move", {"move_id": MOVE}, call=False, outcome=SENT)
    violation = only(scene.evidence())
    scene.requests[-1] = replace(scene.requests[-1], method="abort_move")

    assert "has had no effect" in violation
    assert "is charged for what is incoming" in only(scene.evidence())
