# SPDX-License-Identifier: Apache-2.0
"""The checker reports each kind of violation of notifications and of the store once, by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.check import check, proved
from tests.invariants.record import Evidence, StoredAllocation
from tests.invariants.scene import PLACE, Scene, changed, only
from tests.support.builders import uuid

# --- notifications ---------------------------------------------------------------------------------------------------


def test_a_gap_in_the_sequence_numbers_is_found(scene: Scene) -> None:
    heard = [one for one in scene.heard if one.sequence != 3]

    assert "1 never arrived: 3" in check(scene.evidence(heard=heard))[0]


def test_a_loss_of_the_last_notification_is_found(scene: Scene) -> None:
    assert "1 never arrived: 5" in check(scene.evidence(heard=scene.heard[:-1]))[0]


def test_a_notification_that_was_never_committed_is_found(scene: Scene) -> None:
    last = scene.heard[-1]
    extra = replace(changed(last, sequence=6, instance_id="ghost"), message_id="ghost")

    assert "was heard to say more: 6" in check(scene.evidence(heard=[*scene.heard, extra]))[0]


def test_notifications_out_of_order_are_found(scene: Scene) -> None:
    heard = list(scene.heard)
    heard[2], heard[3] = heard[3], heard[2]

    assert "first arrived after" in only(scene.evidence(heard=heard))


def test_a_copy_with_another_message_id_is_found(scene: Scene) -> None:
    copy = replace(scene.heard[-1], message_id="another")

    assert "and again with another" in only(scene.evidence(heard=[*scene.heard, copy]))


def test_a_copy_with_other_contents_is_found(scene: Scene) -> None:
    copy = changed(scene.heard[-1], vcpus=99)

    assert "twice with different contents" in only(scene.evidence(heard=[*scene.heard, copy]))


def test_a_message_id_of_two_notifications_is_found(scene: Scene) -> None:
    heard = [*scene.heard[:-1], replace(scene.heard[-1], message_id=scene.heard[0].message_id)]

    assert any("stands for" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_generation_that_falls_is_found(scene: Scene) -> None:
    heard = [*scene.heard[:-1], changed(scene.heard[-1], generation=1)]

    assert any("falls from generation" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_notification_that_differs_from_the_outbox_is_found(scene: Scene) -> None:
    heard = [*scene.heard[:-1], changed(scene.heard[-1], image_meta={}, metadata={"role": "db"})]

    assert any("other contents than the outbox" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_further_topic_that_lacks_a_notification_is_found(scene: Scene) -> None:
    violation = only(scene.evidence(others={"slow": [one for one in scene.heard if one.sequence != 3]}))

    assert violation.startswith("slow: ")
    assert violation.endswith("1 never arrived: 3.")


def test_a_further_topic_with_other_contents_is_found(scene: Scene) -> None:
    heard = [*scene.heard[:-1], changed(scene.heard[-1], display_name="other")]

    assert "other contents than the outbox holds" in only(scene.evidence(others={"slow": heard}))


def test_a_further_topic_that_nobody_hears_is_found(scene: Scene) -> None:
    assert "5 never arrived" in only(scene.evidence(others={"slow": []}))


# --- the store -------------------------------------------------------------------------------------------------------


def in_store(scene: Scene, **doctored: Any) -> Evidence:
    books = scene.books()
    return scene.evidence(nodes={PLACE: replace(books[PLACE], **doctored)})


def test_usage_columns_that_are_not_the_sum_are_found(scene: Scene) -> None:
    usage = {**scene.books()[PLACE].usage, "VCPU": 99}

    assert "has usage columns" in only(in_store(scene, usage=usage))


def test_an_allocation_without_a_notification_is_found(scene: Scene) -> None:
    held = {
        **scene.books()[PLACE].held,
        "ghost": StoredAllocation(
            claim_id="c-1", resources={"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}, claim_state="begun"
        ),
    }

    assert "of which the notifications know nothing" in only(in_store(scene, held=held))


def test_an_allocation_that_the_store_has_lost_is_found(scene: Scene) -> None:
    books = scene.books()[PLACE]
    held = {name: one for name, one in books.held.items() if name != uuid(2)}

    assert any("is not charged for instance" in violation for violation in check(in_store(scene, held=held)))


def test_an_allocation_with_another_vector_is_found(scene: Scene) -> None:
    books = scene.books()[PLACE]
    other = StoredAllocation(claim_id="c-1", resources={"VCPU": 1, "MEMORY_MB": 1, "DISK_GB": 1}, claim_state="begun")

    assert any("holds instance" in v for v in check(in_store(scene, held={**books.held, uuid(2): other})))


def test_an_outbox_with_a_hole_is_found(scene: Scene) -> None:
    assert "lacks rows in the outbox: 1" in only(in_store(scene, issued=scene.books()[PLACE].issued[1:]))


def test_a_cursor_before_the_last_sequence_is_found(scene: Scene) -> None:
    assert "cursor at 2" in only(in_store(scene, cursor=2))


def test_a_node_that_the_store_does_not_have_is_found(scene: Scene) -> None:
    assert "not in the store" in check(scene.evidence(nodes={}))[0]


# --- contradictions between notifications -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "payload", "said"),
    [
        (0, {"vcpus_used": 5}, "shows usage"),
        (2, {"old_resources": {"VCPU": 9, "MEMORY_MB": 9, "DISK_GB": 9}}, "goes from"),
    ],
)
def test_notifications_that_contradict_each_other_are_found(
    scene: Scene, index: int, payload: dict[str, Any], said: str
) -> None:
    heard = list(scene.heard)
    heard[index] = changed(heard[index], **payload)

    assert any(said in violation for violation in check(scene.evidence(heard=heard)))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"charged": {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}}, "is charged; it is"),
        ({"role": ""}, "is charged; it is"),
        ({"claim_state": "finished"}, "says that the claim is finished; it is begun"),
        ({"claim_id": "another"}, "of claim another; charged is"),
    ],
)
def test_an_event_that_says_another_state_than_it_leaves_is_found(
    scene: Scene, payload: dict[str, Any], said: str
) -> None:
    heard = [*scene.heard]
    heard[2] = changed(heard[2], **payload)

    assert any(said in violation for violation in check(scene.evidence(heard=heard)))


def test_a_time_that_falls_is_found(scene: Scene) -> None:
    heard = [*scene.heard[:-1], changed(scene.heard[-1], occurred_at="2026-01-15T11:00:00.000000Z")]

    assert any("goes back from 2026-01-15T12:" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_late_end_that_ends_a_later_claim_is_found(scene: Scene) -> None:
    first = scene.requests[-1].reply["claim_id"]
    scene.call("abort_resource_claim", claim_id=first)
    second = scene.begin(2, limits={"vcpu": 8}).reply["claim_id"]
    ended = scene.call("abort_resource_claim", claim_id=second)
    scene.requests[-1] = replace(ended, args={"claim_id": first})

    assert "explains what happened" in only(scene.evidence())


def test_a_claim_of_an_instance_that_was_deleted_before_is_found(scene: Scene) -> None:
    begun = scene.begin(3)
    deleted = scene.call("update_usage", instance={"uuid": uuid(4), "vm_state": "deleted"})
    before = replace(deleted, args={"instance": {"uuid": uuid(3), "vm_state": "deleted"}}, sent_at=4.6, ended_at=4.7)
    scene.requests[-2:] = [before, begun]

    assert only(scene.evidence()).endswith("but its effect is missing.")


def test_an_instance_that_is_charged_twice_is_found(scene: Scene) -> None:
    heard = list(scene.heard)
    heard[-1] = changed(heard[-1], instance_id=uuid(1))

    assert any("which is charged already" in violation for violation in check(scene.evidence(heard=heard)))


def test_a_failed_proof_lists_every_violation(scene: Scene) -> None:
    with pytest.raises(AssertionError, match=r"(?s)2 violations:.*cursor at 2.*lacks rows"):
        proved(in_store(scene, cursor=2, issued=scene.books()[PLACE].issued[1:]))
