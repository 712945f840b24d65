# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` of the worker loses no request and repeats no effect."""

from __future__ import annotations

from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.support import load, raw, stock
from tests.support.builders import instance_dict
from tests.support.worker_process import NODE


@pytest.mark.behaviour("acknowledge-after-commit")
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_nothing_is_lost_done_twice_or_out_of_order_when_the_worker_is_killed(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener, broker_vhost: str, queue_type: str
) -> None:
    worker = make_worker(hosts=load.HOSTS, options=load.options(queue_type))
    worker.start()
    worker.wait_ready()
    flight = load.Load(client)
    flight.prepare()
    worker.kill()

    with raw.connect(broker_vhost) as raw_connection, flight.running():
        flight.wait_piled_up(raw_connection)
        for answered in (1, 100, 200, 300):
            worker.start()
            flight.wait_answered(answered)
            worker.kill()
        assert flight.answered < load.CALLS
        worker.start()

    flight.check(listener)


@pytest.mark.behaviour("acknowledge-after-commit")
def test_a_copy_of_a_message_gets_the_same_reply_before_and_after_a_crash(
    make_worker: MakeWorker, broker_vhost: str, listener: stock.Listener
) -> None:
    worker = make_worker(hosts={HOST: {"n1": NODE}})
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection:
        begin = raw_connection.request("begin_resource_claim", {"instance": instance_dict()}, call=True)
        refused = raw_connection.request(
            "begin_resource_claim", {"instance": instance_dict(2), "limits": {"vcpu": 1}}, call=True
        )
        finish = raw_connection.request(
            "finish_resource_claim", {"claim_id": begin["args"]["instance"]["uuid"]}, call=True
        )
        requests = (begin, refused, finish)
        first = [_answer(raw_connection, request) for request in requests]

        assert [_answer(raw_connection, request) for request in requests] == first
        worker.kill()
        worker.start()
        assert [_answer(raw_connection, request) for request in requests] == first

        view = _answer(raw_connection, raw_connection.request("get_node", {}, call=True))["result"]
    # The inventory, and each of the three requests once.
    assert (view["sequence"], view["running_vms"]) == (4, 1)
    heard = load.once_in_order(listener.wait_for(HOST, "n1", 4))
    assert [one.event_type for one in heard] == [
        "tracker.node.updated",
        "tracker.claim.begun",
        "tracker.claim.rejected",
        "tracker.claim.finished",
    ]


def _answer(raw_connection: raw.RawConnection, request: dict[str, Any]) -> dict[str, Any]:
    """Publish a copy of ``request`` and return its reply without the message's own id."""
    raw_connection.publish(HOST_TOPIC, raw.packed(request))
    reply = raw_connection.reply(request["_msg_id"])
    del reply["_unique_id"]
    return reply
