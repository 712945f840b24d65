# SPDX-License-Identifier: Apache-2.0
"""An inventory driver that hangs delays only calls for its audit, and monitored calls get heartbeats."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.support import held, raw, stock
from tests.support.builders import instance_dict
from tests.support.worker_process import NODE


def test_a_monitored_call_gets_heartbeats_until_its_audit_ends(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str, tmp_path: Path
) -> None:
    hold, environment = held.install(tmp_path)
    options = {"tracker": {"inventory_driver": "held"}}
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options=options, environment=environment)
    worker.start()
    worker.wait_ready()
    hold.touch()

    with ThreadPoolExecutor(1) as pool, raw.connect(broker_vhost) as raw_connection:
        # A stock client gives up after two seconds without a heartbeat.
        prepared = client.prepare(HOST, call_monitor_timeout=2)
        monitored = pool.submit(prepared.call, stock.CONTEXT, "update_available_resource")
        try:
            request = raw_connection.request("update_available_resource", {}, call=True, keys={"_timeout": 2})
            raw_connection.publish(HOST_TOPIC, raw.packed(request))
            # The worker sends one heartbeat per second.
            beats = [raw.unpacked(raw_connection.take(raw_connection.reply_queue).body) for _ in range(3)]
            # The node still accepts claims during the audit.
            claim = client.call(HOST, "begin_resource_claim", instance=instance_dict())
            assert not monitored.done()
        finally:
            hold.unlink()
        views = monitored.result(30)
        ended = raw_connection.reply(request["_msg_id"])

    assert claim["node"] == f"{HOST}-node"
    assert [view["running_vms"] for view in views] == [1]
    assert (ended["ending"], ended["failure"], ended["result"]) == (True, None, views)
    for beat in beats:
        del beat["_unique_id"]
        assert beat == {"result": None, "failure": None, "ending": False, "_msg_id": request["_msg_id"]}


def test_a_worker_stops_although_a_driver_hangs(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str, tmp_path: Path
) -> None:
    hold, environment = held.install(tmp_path)
    options = {"tracker": {"inventory_driver": "held"}}
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options=options, environment=environment)
    worker.start()
    worker.wait_ready()
    hold.touch()
    with raw.connect(broker_vhost) as raw_connection:
        request = raw_connection.request("update_available_resource", {}, call=True)
        raw_connection.publish(HOST_TOPIC, raw.packed(request))
        client.call(HOST, "oslo_rpc_server_ping")

        assert worker.terminate(10) == 0

        ended = raw_connection.reply(request["_msg_id"])
        assert json.loads(ended["failure"])["class"] == "InventoryUnavailable"
        # The call was acknowledged when it began to wait, so the next worker does not get it.
        assert raw_connection.count(HOST_TOPIC) == 0
