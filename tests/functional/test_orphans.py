# SPDX-License-Identifier: Apache-2.0
"""A host is taken out of the configuration while notifications of it wait: somebody publishes them, and ends its claims."""

from __future__ import annotations

import signal
import sqlite3
import time

import pytest

from tests.functional.conftest import MakeWorker
from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ORPHAN = "old-1"
LONGEST_SECONDS = 60


def sequences(worker: WorkerProcess) -> tuple[int, int]:
    """The number of the orphan's last event, and the cursor."""
    with sqlite3.connect(worker.database) as connection:
        [row] = connection.execute(
            "SELECT streams.sequence, relay_cursor.sequence FROM streams JOIN relay_cursor ON stream_id = id"
            " WHERE host = ?",
            (ORPHAN,),
        ).fetchall()
    return row[0], row[1]


def test_a_host_that_nobody_serves_is_named_relayed_and_relieved_of_overdue_claims(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, client: stock.Client, listener: stock.Listener
) -> None:
    worker = make_worker(hosts={"h1": {"n1": NODE}, ORPHAN: {"m1": NODE}})
    worker.start()
    worker.wait_ready()
    instance = instance_dict(1, **sized(vcpus=1, memory_mb=64, disk_gb=1))
    listener.wait_for(ORPHAN, "m1", 1)
    # The cast has to be with the broker before the alarm, and its notification must not.
    worker.signal(signal.SIGSTOP)
    client.cast(ORPHAN, "begin_resource_claim", instance=instance, timeout=1)
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1000000")
    try:
        worker.signal(signal.SIGCONT)
        worker.wait_for_log("ClaimBegun")
    finally:
        worker.kill()
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    assert sequences(worker) == (2, 1)
    began = time.monotonic()
    alone = make_worker(hosts={"h1": {"n1": NODE}}, name="alone")
    alone.start()
    alone.wait_ready()
    wait_until(lambda: sequences(alone)[0] == 3, "the claim expires")
    heard = listener.wait_for(ORPHAN, "m1", 3)
    assert time.monotonic() - began < LONGEST_SECONDS
    once = {one.message_id: one.event_type for one in heard}  # the killed worker may have published them too
    assert list(once.values()) == ["tracker.node.updated", "tracker.claim.begun", "tracker.claim.expired"]
    assert f"hosts of the database that no worker serves: {ORPHAN} (1 instance);" in alone.log()
    wait_until(lambda: sequences(alone) == (3, 3), "the cursor")
    assert alone.terminate() == 0
