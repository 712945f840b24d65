# SPDX-License-Identifier: Apache-2.0
"""The checker reports each kind of violation once, by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.check import check, proved
from tests.invariants.record import RESULT, SENT, Evidence, Parked, StoredAllocation
from tests.invariants.scene import PLACE, Scene, changed
from tests.support.builders import instance_dict, uuid

NODE = PLACE[1]


def only(evidence: Evidence) -> str:
    violations = check(evidence)
    assert len(violations) == 1, violations
    return violations[0]


@pytest.fixture
def scene() -> Scene:
    """Two instances: the first claim is finished and its instance updated, the second claim is begun."""
    scene = Scene()
    scene.begin(1, limits={"vcpu": 8})
    scene.cast("update_usage", instance={"uuid": uuid(1), "node": NODE, "display_name": "renamed"})
    scene.call("finish_resource_claim", claim_id=uuid(1))
    scene.begin(2, limits={"vcpu": 8})
    return scene


def rename(scene: Scene, name: str, **told: Any) -> None:
    """Add a request that the ledger does not decide."""
    scene.sent("update_usage", {"instance": {"uuid": uuid(2), "node": NODE, "display_name": name}}, **told)


def test_the_unaltered_scene_has_no_violations(scene: Scene) -> None:
    proved(scene.evidence())


# --- effects ---------------------------------------------------------------------------------------------------------


def test_an_acknowledged_call_without_an_effect_is_found(scene: Scene) -> None:
    rename(scene, "lost", call=True, outcome=RESULT, reply={"tracked": True, "changed": True})
    scene.inbox["u-5"] = {"result": {"tracked": True, "changed": True}, "failure": None}

    assert only(scene.evidence()).endswith("but its effect is missing.")


def test_an_acknowledged_claim_that_is_not_held_is_found(scene: Scene) -> None:
    scene.call("abort_resource_claim", claim_id=uuid(2))
    scene.requests.pop()

    assert "is the effect of no request" in only(scene.evidence())


def test_a_cast_without_an_effect_is_found(scene: Scene) -> None:
    rename(scene, "lost", call=False, outcome=SENT)

    assert only(scene.evidence()).endswith("has had no effect and is not in the dead-letter queue.")


def test_a_cast_without_an_effect_that_is_parked_is_no_violation(scene: Scene) -> None:
    rename(scene, "parked", call=False, outcome=SENT)

    assert check(scene.evidence(parked=[Parked(unique_id="u-5", reason="invalid_input: field")])) == []


def test_a_cast_that_a_later_cast_overtook_is_found(scene: Scene) -> None:
    later = {"uuid": uuid(2), "node": NODE, "display_name": "later"}
    scene.cast("update_usage", instance=later)
    scene.cast("update_usage", instance={**later, "display_name": "first"})
    earlier, later_one = scene.requests[-1], scene.requests[-2]
    scene.requests[-2:] = [
        replace(earlier, sent_at=5, ended_at=5.5),
        replace(later_one, sent_at=6, ended_at=6.5),
    ]

    assert "took effect out of its turn" in only(scene.evidence())


def test_a_call_that_took_effect_twice_is_found(scene: Scene) -> None:
    scene.call("abort_resource_claim", claim_id=uuid(2))
    scene.begin(2)
    scene.requests.pop()

    assert "or of one that had its effect before" in only(scene.evidence())


def test_a_cast_that_took_effect_twice_is_found(scene: Scene) -> None:
    for name in ("one", "two", "one"):
        scene.cast("update_usage", instance={"uuid": uuid(2), "node": NODE, "display_name": name})
    scene.requests.pop()

    assert "or of one that had its effect before" in only(scene.evidence())


def test_a_refusal_that_was_notified_twice_is_found(scene: Scene) -> None:
    scene.begin(3, limits={"vcpu": 1})
    scene.begin(3, limits={"vcpu": 1})
    scene.requests.pop()

    assert "tracker.claim.rejected" in only(scene.evidence())


def test_two_claims_beyond_the_limits_are_found(scene: Scene) -> None:
    scene.begin(3)
    limited = replace(scene.requests[-1], args={**scene.requests[-1].args, "limits": {"vcpu": 5}})
    scene.requests[-1] = limited

    assert "against its limits" in only(scene.evidence())


def test_a_refusal_of_a_claim_within_its_limits_is_found(scene: Scene) -> None:
    scene.begin(3, limits={"vcpu": 5})
    scene.requests[-1] = replace(scene.requests[-1], args={**scene.requests[-1].args, "limits": {"vcpu": 50}})

    assert "against its limits" in only(scene.evidence())


# --- replies ---------------------------------------------------------------------------------------------------------


def test_a_reply_that_contradicts_the_effect_is_found(scene: Scene) -> None:
    told = scene.call("update_usage", instance={"uuid": uuid(2), "node": NODE, "display_name": "renamed"})
    wrong = {"tracked": True, "changed": False}
    scene.requests[-1] = replace(told, reply=wrong)
    scene.inbox[told.unique_id] = {"result": wrong, "failure": None}

    assert only(scene.evidence()).endswith("which is not what happened.")


def test_a_reply_of_another_generation_is_found(scene: Scene) -> None:
    told = scene.requests[-1]
    scene.requests[-1] = replace(told, reply={**told.reply, "generation": told.reply["generation"] + 1})
    scene.inbox[told.unique_id] = {"result": scene.requests[-1].reply, "failure": None}

    assert only(scene.evidence()).endswith("which is not what happened.")


def test_copies_with_different_answers_are_found(scene: Scene) -> None:
    told = scene.requests[-1]
    other = replace(told, reply={**told.reply, "expires_at": "2026-01-15T13:00:00.000000Z"}, sent_at=9, ended_at=10)

    assert only(scene.evidence(requests=[*scene.requests, other])).startswith("Copies of message u-4")


def test_a_view_that_shows_another_usage_is_found(scene: Scene) -> None:
    told = scene.view()
    scene.requests[-1] = replace(told, reply={**told.reply, "vcpus_used": 3})

    assert "with usage" in only(scene.evidence())


def test_a_view_of_a_sequence_that_was_never_issued_is_found(scene: Scene) -> None:
    told = scene.view()
    scene.requests[-1] = replace(told, reply={**told.reply, "sequence": 77, "generation": 77})

    assert "which was never issued" in only(scene.evidence())


@pytest.mark.parametrize("generation", [1, 4])
def test_a_view_of_another_generation_than_its_sequence_is_found(generation: int) -> None:
    scene = Scene()
    scene.begin(1)
    told = scene.view()
    scene.begin(2)
    scene.requests[1] = replace(told, reply={**told.reply, "generation": generation})

    assert "which is not that of sequence 2" in check(scene.evidence())[0]


def test_an_answer_from_an_old_state_is_found() -> None:
    scene = Scene()
    old = scene.view()
    scene.begin(1)
    scene.view()
    late = replace(old, unique_id="u-late", sent_at=8, ended_at=9)

    assert "was asked for after reply" in only(scene.evidence(requests=[*scene.requests, late]))


def test_an_inbox_row_that_differs_from_the_reply_is_found(scene: Scene) -> None:
    kept = {**scene.inbox, "u-4": {"result": None, "failure": None}}

    assert "recorded is" in only(scene.evidence(inbox=kept))


def test_an_effect_that_is_not_in_the_inbox_is_found(scene: Scene) -> None:
    kept = {name: reply for name, reply in scene.inbox.items() if name != "u-4"}

    assert "not recorded in the inbox" in only(scene.evidence(inbox=kept))


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_a_parked_cast_that_had_its_effect_is_found(scene: Scene) -> None:
    parked = [Parked(unique_id="u-2", reason="invalid_input: no")]

    assert "tracker.usage.updated" in only(scene.evidence(parked=parked))


@pytest.mark.parametrize(
    ("unique_id", "reason", "said"),
    [
        ("u-99", "invalid_input: no", "which nobody sent"),
        (None, "invalid_input: no", "which nobody sent"),
        ("u-5", "invalid_input: no", "never parked"),
        ("u-6", "", "without a reason"),
    ],
)
def test_an_unexpected_dead_letter_is_found(scene: Scene, unique_id: str | None, reason: str, said: str) -> None:
    scene.call("begin_resource_claim", instance=instance_dict(2, node=NODE, vcpus=7))
    scene.sent("update_usage", {"instance": {"uuid": "other", "memory_mb": "much"}}, call=False, outcome=SENT)
    parked = [Parked(unique_id=unique_id, reason=reason)]
    if unique_id != "u-6":
        parked.append(Parked(unique_id="u-6", reason="invalid_input: no"))

    assert said in only(scene.evidence(parked=parked))


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
