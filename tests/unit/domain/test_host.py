# SPDX-License-Identifier: Apache-2.0
"""The ledgers of a host: which node a name, a missing name or an instance means."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, begin, host_ledger, node_name, play, uuid
from tracker_worker.domain.host import HostLedger
from tracker_worker.errors import InvalidInput, NodeNotFound


def test_an_unknown_node_is_not_found() -> None:
    with pytest.raises(NodeNotFound) as caught:
        host_ledger().node("elsewhere")
    assert caught.value.kwargs == {"host": HOST, "node": "elsewhere"}


def test_a_missing_name_means_the_only_node_of_the_host() -> None:
    assert host_ledger().node_or_only(None, "node").name == "node-1"
    with pytest.raises(InvalidInput) as caught:
        host_ledger(nodes=2).node_or_only(None, "instance.node")
    assert caught.value.kwargs["field"] == "instance.node"
    with pytest.raises(NodeNotFound):
        HostLedger(id=1, name=HOST).node_or_only(None, "node")
    with pytest.raises(NodeNotFound):
        host_ledger().node_or_only("node-2", "node")


def test_a_host_knows_which_node_holds_an_instance() -> None:
    host = host_ledger(nodes=3)
    play(host, begin(1, node="node-3"))
    assert host.holding(uuid(1)).name == "node-3"
    assert host.holding(uuid(2)) is None
    assert [ledger.name for ledger in host] == [node_name(number) for number in (1, 2, 3)]
