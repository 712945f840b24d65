# SPDX-License-Identifier: Apache-2.0
"""The checker reports each kind of violation of requests, answers and dead letters once, by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.check import check, proved
from tests.invariants.record import RESULT, SENT, Parked
from tests.invariants.scene import PLACE, Scene, only
from tests.support.builders import instance_dict, uuid

NODE = PLACE[1]


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
