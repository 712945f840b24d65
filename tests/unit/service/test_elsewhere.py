# SPDX-License-Identifier: Apache-2.0
"""A node takes no claims while another host is charged for it and no longer lists it."""

from __future__ import annotations

import logging

import pytest

from tests.support.builders import HOST, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.commands import ExpireClaims
from tracker_worker.service.requests.items import Chore

OTHER = "host-2"
N1, N2 = node_name(1), node_name(2)


@pytest.fixture
def harness(make_harness: MakeHarness) -> EngineHarness:
    """host-1 and host-2 have a node-1 each; instance 1 is on that of host-1, which then goes out of its inventory."""
    harness = make_harness(hosts=(HOST, OTHER)).start()
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.drivers[HOST].nodes = {N2: driver_resource_dict()}
    return harness


def audit(harness: EngineHarness) -> None:
    harness.caller.call("update_available_resource").reply()
    harness.finish()


def state(harness: EngineHarness, host: str, node: str = N1) -> tuple[str, str]:
    view = harness.caller.call("get_node", source=host, node=node).reply()
    return view["state"], view["state_reason"]


def test_a_node_that_another_host_is_charged_for_takes_no_claims_until_it_is_not(
    harness: EngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    begin = harness.caller.call
    audit(harness)
    assert state(harness, HOST)[0] == "missing"
    assert state(harness, OTHER) == (
        "unknown",
        "host host-1 has a charged node of this name: move it here with 'node move'",
    )
    refused = begin("begin_resource_claim", source=OTHER, instance=instance_dict(2)).reply()
    assert isinstance(refused, Refused)
    assert (refused.error, refused.kwargs["state"]) == ("NodeUnavailable", "unknown")
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "tracker-worker node move node-1 --host host-1 --to host-2" in error

    harness.engine.renew_leases()  # looks again, and nothing is new
    harness.finish()
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    begin("update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"}).reply()
    harness.engine.renew_leases()
    harness.finish()
    assert state(harness, OTHER) == ("open", "")
    assert begin("begin_resource_claim", source=OTHER, instance=instance_dict(2)).reply()["host"] == OTHER


def test_a_node_that_is_listed_again_is_the_one_of_its_host(harness: EngineHarness) -> None:
    audit(harness)
    harness.drivers[HOST].nodes[N1] = driver_resource_dict()
    audit(harness)
    assert (state(harness, HOST), state(harness, OTHER)) == (("open", ""), ("open", ""))


def test_two_hosts_that_both_list_a_name_have_two_nodes(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=(HOST, OTHER)).start()
    for number, host in ((1, HOST), (2, OTHER)):
        harness.caller.call("begin_resource_claim", source=host, instance=instance_dict(number)).reply()
    audit(harness)
    assert (state(harness, HOST), state(harness, OTHER)) == (("open", ""), ("open", ""))


def test_a_missing_node_without_a_charge_keeps_nothing_from_its_name(harness: EngineHarness) -> None:
    harness.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"}).reply()
    audit(harness)
    assert (state(harness, HOST)[0], state(harness, OTHER)[0]) == ("missing", "open")


def test_a_chore_about_a_node_that_was_renamed_leaves_it_out(harness: EngineHarness) -> None:
    done: list[str] = []
    harness.engine.submit(
        Chore(host=HOST, commands=[ExpireClaims(node="gone")], done=lambda host: done.append(host.name))
    )
    harness.finish()
    assert done == [HOST]
