# SPDX-License-Identifier: Apache-2.0
"""Claims with ids, groups, drains and nodes with new names: right runs have no violation, and each wrong one has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.check import check
from tests.invariants.record import RESULT, Evidence
from tests.invariants.scene import PLACE, Scene, changed
from tests.support.builders import instance_dict, uuid

NODE = PLACE[1]


def only(evidence: Evidence) -> str:
    violations = check(evidence)
    assert len(violations) == 1, violations
    return violations[0]


def entry(number: int, node: str = NODE, **more: Any) -> dict[str, Any]:
    """A claim of a group."""
    return {"instance": instance_dict(number, node=node), "claim_id": uuid(100 + number), **more}


def renamed() -> Scene:
    """A node gets another name between two updates of its instance, and a third one names the old name."""
    scene = Scene(nodes=2)
    scene.begin(1, limits={"vcpu": 8})
    scene.begin(2, node="node-2")
    scene.cast("update_usage", instance={"uuid": uuid(1), "node": NODE, "display_name": "before"})
    scene.rename("new")
    scene.cast("update_usage", instance={"uuid": uuid(1), "node": "new", "display_name": "after"})
    scene.call("update_usage", instance={"uuid": uuid(1), "node": NODE, "display_name": "late"})
    scene.begin(3, node="new", limits={"vcpu": 4})
    scene.view("new")
    scene.listing("new")
    return scene


def test_the_instances_of_a_node_with_another_name_are_explained() -> None:
    scene = renamed()
    scene.rename("newer", "new")
    scene.call("release_allocation", instance_uuid=uuid(1), reason="gone")
    scene.call("release_allocation", instance_uuid=uuid(1), reason="gone")

    assert check(scene.evidence()) == []


def test_a_name_that_a_node_has_left_and_no_other_has_come_to_is_found() -> None:
    scene = renamed()
    heard = [one for one in scene.heard if "previous_host" not in one.payload]

    assert any("tells of moves to" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_charge_that_a_move_has_lost_is_found() -> None:
    scene = renamed()
    books = scene.books()
    place = (PLACE[0], "new")
    kept = {name: held for name, held in books[place].held.items() if name != uuid(1)}

    violations = check(scene.evidence(nodes={**books, place: replace(books[place], held=kept)}))

    assert any(f"is not charged for instance {uuid(1)}" in violation for violation in violations)


def test_an_instance_that_two_nodes_of_a_host_are_charged_for_is_found() -> None:
    scene = Scene(nodes=2)
    scene.begin(1)
    books = scene.books()
    other = (PLACE[0], "node-2")

    violations = check(scene.evidence(nodes={**books, other: replace(books[other], held=books[PLACE].held)}))

    assert any(f"Instance {uuid(1)} is charged to" in violation for violation in violations)


def test_claims_with_chosen_ids_groups_and_their_refusals_are_explained() -> None:
    scene = Scene(nodes=2)
    scene.call("abort_resource_claim", claim_id=uuid(100))
    scene.call("begin_resource_claim", instance=instance_dict(9, node=NODE), claim_id=uuid(100), on_expiry="release")
    scene.call("begin_resource_claim", instance=instance_dict(8, node=NODE), claim_id=uuid(100))
    scene.call("begin_resource_claims", claims=[entry(1), entry(2, "node-2")])
    tight = {"limits": {"vcpu": 7}}
    scene.call("begin_resource_claims", claims=[entry(3, **tight), entry(4, **tight), entry(5, "node-2")])
    scene.call("begin_resource_claims", claims=[entry(6), entry(1, "node-2", claim_id=uuid(107))])
    scene.expire()
    scene.listing()

    assert check(scene.evidence()) == []


def test_an_id_that_is_used_again_after_its_claim_has_ended_is_explained() -> None:
    scene = Scene()
    scene.call("begin_resource_claims", claims=[entry(1)])
    scene.cast("abort_resource_claim", claim_id=uuid(101))
    scene.begin(1, limits={"vcpu": 8})
    scene.call("begin_resource_claim", instance=instance_dict(2, node=NODE), claim_id=uuid(101))

    assert check(scene.evidence()) == []


def test_a_group_of_which_only_a_part_has_begun_is_found() -> None:
    scene = Scene(nodes=2)
    asked = scene.call("begin_resource_claims", claims=[entry(1), entry(2, "node-2")])
    scene.requests[-1] = replace(asked, args={"claims": [entry(1), entry(2, "node-2"), entry(3)]}, outcome="unknown")

    assert "3 claims of the group" in only(scene.evidence())


def test_a_claim_that_got_another_id_than_the_chosen_one_is_found() -> None:
    scene = Scene()
    asked = scene.call("begin_resource_claim", instance=instance_dict(1, node=NODE), claim_id=uuid(100))
    scene.requests[-1] = replace(asked, args={**asked.args, "claim_id": uuid(200)})

    assert check(scene.evidence()) != []


def test_a_claim_that_expired_against_its_policy_is_found() -> None:
    scene = Scene()
    asked = scene.call("begin_resource_claim", instance=instance_dict(1, node=NODE), on_expiry="keep")
    scene.expire()
    scene.requests[-1] = replace(asked, args={**asked.args, "on_expiry": "release"})

    assert "is the effect of no request" in only(scene.evidence())


def test_a_claim_that_expired_before_its_end_is_found() -> None:
    scene = Scene()
    scene.begin(1)
    scene.expire()
    early = {"occurred_at": scene.heard[-2].payload["occurred_at"]}
    heard = [*scene.heard[:-1], changed(scene.heard[-1], **early)]
    books = scene.books()
    issued = [*books[PLACE].issued[:-1], replace(books[PLACE].issued[-1], payload=heard[-1].payload)]

    nodes = {PLACE: replace(books[PLACE], issued=issued)}
    assert "tracker.claim.expired" in only(scene.evidence(heard=heard, nodes=nodes))


def test_refusals_of_a_drained_node_are_explained() -> None:
    scene = Scene()
    scene.begin(1)
    scene.drain("repair")
    scene.begin(2)
    scene.call("finish_resource_claim", claim_id=uuid(1))
    scene.undrain("repair")
    scene.begin(2)

    assert check(scene.evidence()) == []


def test_a_refusal_after_the_drain_is_found() -> None:
    scene = Scene()
    scene.drain("repair")
    refused = scene.begin(2)
    scene.undrain("repair")
    scene.requests[1] = replace(refused, sent_at=10, ended_at=11)

    assert "which was not in force" in only(scene.evidence())


def test_a_drain_that_was_done_and_is_told_nowhere_is_found() -> None:
    scene = Scene()
    scene.sent("node drain", {"host": PLACE[0], "reason": "repair"}, call=True, outcome=RESULT)

    assert "No notification tells of the drain" in only(scene.evidence())


def test_a_claim_that_a_drained_node_has_granted_is_found() -> None:
    scene = Scene()
    scene.begin(1)
    states = [changed(scene.heard[0], state="draining", state_reason="x"), *scene.heard[1:]]
    books = scene.books()
    issued = [replace(books[PLACE].issued[0], payload=states[0].payload), *books[PLACE].issued[1:]]

    violation = only(scene.evidence(heard=states, nodes={PLACE: replace(books[PLACE], issued=issued)}))
    assert violation.endswith("says tracker.claim.begun while it is draining.")


def test_a_listing_that_lacks_an_allocation_is_found() -> None:
    scene = Scene()
    scene.begin(1)
    listed = scene.listing()
    scene.requests[-1] = replace(listed, reply={**listed.reply, "allocations": []})

    assert "has 0 allocations" in only(scene.evidence())


def test_a_page_of_instances_is_what_was_told_up_to_its_number() -> None:
    scene = Scene()
    scene.page()
    for number in (2, 1):
        scene.begin(number)
    scene.page()
    scene.cast("update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})
    scene.page()

    assert check(scene.evidence()) == []


@pytest.mark.parametrize(
    ("doctored", "sentence"),
    [
        (lambda told: {**told, "instances": told["instances"][1:]}, "has 1 instances; the notifications come to 2"),
        (lambda told: {**told, "instances": told["instances"][::-1]}, "is not whole and in order"),
        (lambda told: {**told, "next": uuid(2)}, "is not whole and in order"),
        (lambda told: {**told, "sequence": 99}, "is of a number that was never issued"),
        (
            lambda told: {
                **told,
                "instances": [{**one, "charged": {**one["charged"], "VCPU": 1}} for one in told["instances"]],
            },
            "the notifications come to {'VCPU': 4",
        ),
        (
            lambda told: {**told, "instances": [{**one, "sequence": 1} for one in told["instances"]]},
            "an instance of another number",
        ),
    ],
)
def test_a_page_of_instances_that_is_wrong_is_found(doctored: Callable[[Any], Any], sentence: str) -> None:
    scene = Scene()
    scene.begin(1)
    scene.begin(2)
    asked = scene.page()
    scene.requests[-1] = replace(asked, reply=doctored(asked.reply))

    violations = check(scene.evidence())
    assert any(sentence in violation for violation in violations), violations


def test_notifications_that_are_asked_for_are_those_that_were_published() -> None:
    scene = Scene()
    scene.begin(1)
    scene.begin(2)
    scene.fetched()
    scene.fetched(after=1, limit=1)
    scene.fetched(after=99)

    assert check(scene.evidence()) == []


@pytest.mark.parametrize(
    ("doctored", "sentence"),
    [
        (lambda told: told[1:], "has [2, 3] of 1 to 3, not [1, 2, 3]"),
        (lambda told: told[:-1], "has [1, 2] of 1 to 3, not [1, 2, 3]"),
        (lambda told: [told[0], told[2], told[1]], "has [1, 3, 2] of 1 to 3, not [1, 2, 3]"),
        (lambda told: [*told[:2], {**told[2], "message_id": "other"}], "a notification 3 that was published otherwise"),
        (lambda told: [*told[:2], {**told[2], "timestamp": ""}], "a notification 3 that was published otherwise"),
    ],
)
def test_notifications_that_are_asked_for_and_lack_or_differ_are_found(
    doctored: Callable[[list[Any]], list[Any]], sentence: str
) -> None:
    scene = Scene()
    scene.begin(1)
    scene.begin(2)
    asked = scene.fetched()
    scene.requests[-1] = replace(asked, reply={**asked.reply, "notifications": doctored(asked.reply["notifications"])})

    assert sentence in only(scene.evidence())
