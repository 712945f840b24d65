# SPDX-License-Identifier: Apache-2.0
"""An inventory driver that hangs delays only calls for its audit, and monitored calls get heartbeats."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.support import callers, held, raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE

pytestmark = pytest.mark.long

AUDIT = "update_available_resource"
SMALL = sized(vcpus=1, memory_mb=64, disk_gb=1)


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


@pytest.mark.parametrize(
    ("hosts", "audits"), [(1, 256), (300, 1), (300, 40)], ids=["one-host", "many-hosts", "many-hang"]
)
def test_audits_whose_driver_hangs_hold_no_place_in_the_prefetch(
    make_worker: MakeWorker, broker_vhost: str, tmp_path: Path, hosts: int, audits: int
) -> None:
    """With 300 hosts each of them has one place, and with 40 hosts that hang more drivers hang than are asked at a time."""
    hold, environment = held.install(tmp_path)
    names = [f"host{number}" for number in range(1, hosts + 1)]
    options = {
        "tracker": {"inventory_driver": "held", "audit_interval_seconds": 3600},
        "bus": {"queue_type": "classic", "prefetch": 256},
    }
    worker = make_worker(hosts={name: {} for name in names}, options=options, environment=environment)
    worker.start()
    worker.wait_ready()
    hanging = names[:audits]
    hold.write_text("\n".join(hanging), encoding="utf-8")
    with callers.connected(broker_vhost) as connected:
        waiting = [connected.call(hanging[number % len(hanging)], AUDIT, {}, seconds=60) for number in range(audits)]
        given_up = [connected.call(host, AUDIT, {}, seconds=2) for host in hanging for _ in range(2)]
        for host in (hanging[0], hanging[-1]):
            claim = connected.answer(
                host, "begin_resource_claim", 20, instance=instance_dict(node=f"{host}-node", **SMALL)
            )
            assert (claim.failure, claim.result and claim.result["state"]) == (None, "begun")
        # The worker has received the calls before the claims, and counts their time from then on.
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            connected.wait(0.1)
        if hosts > len(hanging):
            # It is asked although as many drivers hang as are asked at a time: those count no longer after 30 s.
            assert connected.answer(names[-1], AUDIT, 50).failure is None
        assert not any(called.seconds for called in waiting)
        hold.unlink()
        wait_until(
            lambda: connected.wait(0.1) or all(called.seconds for called in waiting), "the audits answered", seconds=60
        )
    assert {called.failure for called in waiting} == {None}
    assert not any(called.seconds for called in given_up)
