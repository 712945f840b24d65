# SPDX-License-Identifier: Apache-2.0
"""Decisions on a begin for an instance that is charged already."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW, begin, host_ledger, play, put, refused, snapshot, uuid
from tracker_worker.domain.commands import AbortClaim, FinishClaim
from tracker_worker.errors import ClaimConflict


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_returns_the_same_claim_and_changes_nothing():
    host = host_ledger()
    first = play(host, begin(1, limits={"vcpu": 2}))
    before = snapshot(host.node("node-1"))
    again = play(host, begin(1, limits={"vcpu": 2}), now=NOW + 5)
    assert again.events == ()
    assert again.reply == first.reply
    assert snapshot(host.node("node-1")) == before


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_within_one_commit_returns_the_same_claim():
    host = host_ledger()
    first, again = put(host, begin(1)), put(host, begin(1))
    assert again.reply == first.reply
    assert again.events == ()


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_ignores_limits_and_keeps_the_expiry():
    host = host_ledger()
    first = play(host, begin(1))
    again = play(host, begin(1, limits={"vcpu": 0, "memory_mb": 0}, timeout=1, display_name="other"))
    assert again.reply == first.reply
    assert host.node("node-1").allocations[uuid(1)].instance.display_name == "web-1"


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_may_divide_the_same_disk_differently():
    host = host_ledger()
    first = play(host, begin(1, root_gb=40, ephemeral_gb=10))
    assert play(host, begin(1, root_gb=50, ephemeral_gb=0)).reply == first.reply


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_of_a_finished_claim_returns_that_claim_and_charges_nothing():
    host = host_ledger()
    first = play(host, begin(1))
    play(host, FinishClaim(claim_id=uuid(1)))
    before = snapshot(host.node("node-1"))
    again = play(host, begin(1))
    assert again.reply == {**first.reply, "state": "finished", "generation": first.reply["generation"] + 1}
    assert again.events == ()
    assert snapshot(host.node("node-1")) == before


@pytest.mark.behaviour("repeated-claim")
@pytest.mark.parametrize("size", ["vcpus", "memory_mb", "root_gb", "ephemeral_gb"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_begin_with_other_sizes_is_a_claim_conflict(size, finished):
    host = host_ledger()
    play(host, begin(1))
    if finished:
        play(host, FinishClaim(claim_id=uuid(1)))
    refused(host, begin(1, **{size: 1}), ClaimConflict, instance_uuid=uuid(1), node="node-1")


@pytest.mark.behaviour("repeated-claim")
@pytest.mark.parametrize("finished", [True, False])
def test_a_begin_on_another_node_of_the_host_is_a_claim_conflict(finished):
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-1"))
    if finished:
        play(host, FinishClaim(claim_id=uuid(1)))
    refused(host, begin(1, node="node-2"), ClaimConflict, instance_uuid=uuid(1), node="node-1")


@pytest.mark.behaviour("repeated-claim")
def test_an_instance_may_be_claimed_on_any_node_after_an_abort():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-1"))
    play(host, AbortClaim(claim_id=uuid(1)))
    assert play(host, begin(1, node="node-2", vcpus=9)).reply["resources"]["VCPU"] == 9
