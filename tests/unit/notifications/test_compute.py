# SPDX-License-Identifier: Apache-2.0
"""Which of Nova's notifications an event is, which is decided by its row alone."""

from __future__ import annotations

import json
from random import Random
from typing import Any
from uuid import UUID, uuid5

import pytest
from msgspec.structs import replace

from tests.support.builders import (
    HOST,
    NOW,
    TIMEOUT,
    begin,
    host_ledger,
    instance_dict,
    inventory,
    play,
    update,
    uuid,
)
from tests.support.moves import N1, N2, POLICY, moved, other_host, step, told
from tests.support.rows import JANUARY, SEGMENT, closed, every_type, exists, rows
from tracker_worker.domain.adoption import read_adoption
from tracker_worker.domain.commands import (
    AbortClaim,
    Command,
    ExpireClaims,
    FinishClaim,
    ReleaseAllocation,
    RenewClaim,
    ReportNode,
)
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT
from tracker_worker.notifications.dialects.dialect import Unwritable
from tracker_worker.notifications.dialects.table import COMPUTE
from tracker_worker.notifications.notification import WARN, Notification
from tracker_worker.wire.message import decode_message

CLAIM = begin(1, node=N1, project_id="p", user_id="u")
FINISHED, ABORTED = FinishClaim(claim_id=uuid(1)), AbortClaim(claim_id=uuid(1))
RENEWED = RenewClaim(claim_id=uuid(1), timeout=2 * TIMEOUT)
ACTIVE, DELETED = update(1, vm_state="active"), update(1, vm_state="deleted")
OFFLOADED = update(1, vm_state="shelved_offloaded")
KEEP, RELEASE = ExpireClaims(node=N1), ExpireClaims(node=N1, release=True)
RELEASED = ReleaseAllocation(uuid=uuid(1), reason="burnt", released_by="ann")
ADOPTED = read_adoption([instance_dict(1, vm_state="active", node=N1)], {"project_id": "p"}, POLICY)
DELETE = ["delete.start", "delete.end"]
LATE = NOW + TIMEOUT + 1


def messages(*notifications: Notification) -> list[dict[str, Any]]:
    return [decode_message(body) for each in notifications for body in COMPUTE.bodies(each)]


def names(*notifications: Notification) -> list[str]:
    """The events without what all have in front."""
    types = [message["event_type"] for message in messages(*notifications)]
    assert all(each.startswith("compute.instance.") for each in types)
    return [each.removeprefix("compute.instance.") for each in types]


def last(*commands: Command) -> list[str]:
    """What the last command is, after the others."""
    host = host_ledger(2)
    said: list[Notification] = []
    for number, command in enumerate(commands):
        late = any(isinstance(each, ExpireClaims) for each in commands[: number + 1])
        said = rows(host, command, LATE if late else NOW)
    assert said
    return names(*said)


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ((CLAIM,), []),
        ((CLAIM, RENEWED), []),
        ((CLAIM, FINISHED), ["create.end"]),
        ((CLAIM, ABORTED), []),
        ((CLAIM, RENEWED, ABORTED), []),
        ((CLAIM, ACTIVE, ABORTED), []),
        ((CLAIM, KEEP), ["create.end"]),
        ((CLAIM, KEEP, ABORTED), DELETE),
        ((CLAIM, RELEASE), []),
        ((CLAIM, KEEP, ACTIVE), ["update"]),
        ((CLAIM, KEEP, DELETED), DELETE),
        ((CLAIM, ACTIVE), ["update"]),
        ((CLAIM, FINISHED, update(1, project_id="q")), ["update"]),
        ((CLAIM, FINISHED, DELETED), DELETE),
        ((CLAIM, FINISHED, OFFLOADED), DELETE),
        ((CLAIM, DELETED), DELETE),
        ((CLAIM, FINISHED, RELEASED), DELETE),
        ((ADOPTED,), ["create.end"]),
        ((begin(1, node=N1, limits={"vcpu": 0}),), []),
        ((ReportNode(node=N1, inventory=inventory(vcpus=8)),), []),
        ((CLAIM, FINISHED, moved()), []),
        ((CLAIM, FINISHED, moved(limits={"vcpu": 0})), []),
        ((CLAIM, FINISHED, moved(), step(ABORT)), []),
        ((CLAIM, FINISHED, moved(), step(FAIL)), []),
        ((CLAIM, FINISHED, moved(), KEEP), []),
        ((CLAIM, FINISHED, moved(), step(FINISH)), ["finish_resize.end"]),
        ((CLAIM, FINISHED, moved(), step(FINISH), step(CONFIRM)), ["resize.confirm.end"]),
        ((CLAIM, FINISHED, moved(), step(FINISH), step(REVERT)), ["resize.revert.end"]),
    ],
)  # fmt: skip
def test_an_event_is_what_nova_says_of_it(commands: tuple[Command, ...], expected: list[str]) -> None:
    assert last(*commands) == expected


def test_an_aborted_claim_is_a_deletion_exactly_if_its_creation_was_told() -> None:
    """Whatever happens in whatever order: the row says what a memory of all rows before it would say."""
    random = Random(13)
    aborts = deletions = 0
    for _ in range(300):
        host, now = host_ledger(2), NOW
        created: set[str] = set()
        for _ in range(30):
            number = random.randint(1, 3)
            command: Command = random.choice(
                [
                    begin(number, node=N1),
                    begin(number, node=N1),
                    FinishClaim(claim_id=uuid(number)),
                    AbortClaim(claim_id=uuid(number)),
                    AbortClaim(claim_id=uuid(number)),
                    RenewClaim(claim_id=uuid(number), timeout=2 * TIMEOUT),
                    update(number, vm_state="active"),
                    update(number, vm_state="deleted"),
                    ExpireClaims(node=N1, release=random.random() < 0.3),
                ]
            )
            now += random.choice([0, TIMEOUT // 2, TIMEOUT + 1])
            for each in rows(host, command, now):
                said = names(each)
                instance = json.loads(each.payload).get("instance_id")
                if each.event_type == "tracker.claim.aborted":
                    aborts += 1
                    deletions += said == DELETE
                    assert said == (DELETE if instance in created else [])
                if "create.end" in said:
                    assert instance not in created
                    created.add(instance)
                elif json.loads(each.payload).get("role") == "":
                    created.discard(instance)
    assert aborts > deletions > 50


@pytest.fixture
def running() -> HostLedger:
    """A host of two nodes, of which the first is charged for an instance that is built."""
    host = host_ledger(2)
    play(host, begin(1, node=N1, root_gb=40, ephemeral_gb=10))
    play(host, FinishClaim(claim_id=uuid(1)))
    return host


class TestMovesBetweenTwoNodes:
    """Two nodes tell one step, and Nova one of them."""

    @pytest.mark.parametrize("kind", ["resize", "migration"])
    def test_the_hand_over_is_told_where_the_instance_is_and_the_confirmation_at_the_source(
        self, running: HostLedger, kind: str
    ) -> None:
        rows(running, moved(node=N2, kind=kind))
        finished = rows(running, step(FINISH))
        assert len(finished) == 2
        [arrived] = messages(*finished)
        assert arrived["event_type"] == "compute.instance.finish_resize.end"
        assert (arrived["payload"]["node"], arrived["payload"]["vcpus"]) == (N2, 8)
        [confirmed] = messages(*rows(running, step(CONFIRM)))
        assert confirmed["event_type"] == "compute.instance.resize.confirm.end"

    def test_a_live_migration_is_told_once(self, running: HostLedger) -> None:
        rows(running, moved(node=N2, kind="live_migration"))
        assert names(*rows(running, step(FINISH))) == ["finish_resize.end"]

    def test_what_comes_back_is_told_where_it_came_from(self, running: HostLedger) -> None:
        rows(running, moved(node=N2))
        rows(running, step(FINISH))
        reverted = rows(running, step(REVERT))
        assert len(reverted) == 2
        [back] = messages(*reverted)
        assert back["event_type"] == "compute.instance.resize.revert.end"
        assert (back["payload"]["node"], back["payload"]["vcpus"], back["payload"]["root_gb"]) == (N1, 2, 40)


class TestTheConfirmation:
    """The source tells it, which is charged the old size: a consumer that takes the last figure must not go back to it."""

    def confirmed(self, source: HostLedger, **sizes: Any) -> dict[str, Any]:
        destination = other_host()
        command = moved(from_host=HOST, from_node=N1)
        wanted = replace(command.begin.instance, **sizes)
        begun = replace(command, begin=replace(command.begin, node=None, instance=wanted))
        play(destination, begun)
        answered = play(destination, step(FINISH)).reply
        play(source, step(FINISH, told=told(answered)))
        [message] = messages(*rows(source, step(CONFIRM, told=told(answered))))
        assert message["event_type"] == "compute.instance.resize.confirm.end"
        assert message["publisher_id"] == f"compute.{HOST}"
        payload: dict[str, Any] = message["payload"]
        return payload

    def test_it_has_the_new_size_and_the_new_place(self, running: HostLedger) -> None:
        payload = self.confirmed(running, root_gb=80, ephemeral_gb=10)
        assert (payload["host"], payload["node"]) == ("host-2", "node-1")
        assert (payload["vcpus"], payload["memory_mb"], payload["disk_gb"]) == (8, 8192, 90)
        assert (payload["root_gb"], payload["ephemeral_gb"]) == (80, 10)
        assert payload["resources"] == {"VCPU": 8, "MEMORY_MB": 8192, "DISK_GB": 90}
        assert (payload["instance_type"], payload["instance_flavor_id"]) == ("", "")

    def test_a_disk_that_became_smaller_than_what_is_not_root_is_no_negative_root(self, running: HostLedger) -> None:
        payload = self.confirmed(running, root_gb=5, ephemeral_gb=0)
        assert (payload["disk_gb"], payload["root_gb"]) == (5, 0)

    def test_in_place_it_is_told_as_it_is(self, running: HostLedger) -> None:
        rows(running, moved(node=N1))
        rows(running, step(FINISH))
        [confirmed] = rows(running, step(CONFIRM))
        [message] = messages(confirmed)
        assert message["payload"] == json.loads(confirmed.payload)
        assert (message["payload"]["host"], message["payload"]["vcpus"], message["payload"]["root_gb"]) == (HOST, 8, 70)


class TestExists:
    def test_the_period_is_in_novas_form_and_everything_else_is_as_it_is(self) -> None:
        row = exists()
        [message] = messages(row)
        assert message["event_type"] == "compute.instance.exists"
        stock = {"audit_period_beginning": "2026-01-01 00:00:00", "audit_period_ending": "2026-02-01 00:00:00"}
        assert message["payload"] == {**json.loads(row.payload), **stock}

    def test_a_correction_of_earlier_periods_is_no_existence_in_this_one(self) -> None:
        earlier = {**JANUARY, "seconds": -10, "resource_seconds": {"VCPU": -20, "MEMORY_MB": 0, "DISK_GB": 0}}
        assert names(exists(segments=[], adjustments=[earlier])) == []
        assert names(exists(segments=[SEGMENT], adjustments=[earlier])) == ["exists"]

    def test_the_end_of_a_period_is_not_told(self) -> None:
        assert names(closed()) == []


def test_every_message_has_the_publisher_the_time_and_the_payload_of_its_row_and_an_id_that_follows_from_its() -> None:
    host = host_ledger(2)
    rows(host, CLAIM)
    [row] = rows(host, DELETED)
    row = replace(row, priority=WARN)
    for _ in range(2):
        said = messages(row)
        assert [message["message_id"] for message in said] == [
            str(uuid5(UUID(row.message_id), f"compute:{index}")) for index in (0, 1)
        ]
        for message in said:
            assert message["publisher_id"] == f"compute.{HOST}"
            assert message["priority"] == "INFO"
            assert message["timestamp"] == "2026-01-15 12:00:00.000000"
            assert message["payload"] == json.loads(row.payload)
    assert COMPUTE.queues[row.priority] == "INFO"


def test_no_row_of_any_type_fails() -> None:
    told = {event_type: names(row) for event_type, row in every_type().items()}
    assert sum(map(bool, told.values())) == 9  # the sample of an aborted claim is one that was begun
    assert told["tracker.claim.aborted"] == []


def test_a_row_that_cannot_be_read_is_an_error_that_names_the_option() -> None:
    row = replace(exists(), payload=b'{"segments": 1')
    with pytest.raises(Unwritable, match="compute_topics"):
        COMPUTE.bodies(row)
    with pytest.raises(Unwritable, match="badly formed"):
        COMPUTE.bodies(replace(exists(), message_id="m-1"))
