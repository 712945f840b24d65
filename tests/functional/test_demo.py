# SPDX-License-Identifier: Apache-2.0
"""The demo over a broker: billing agrees with the ledger, and nothing of the demo is left behind."""

from __future__ import annotations

import re
import subprocess

from tests.servers import RabbitMQServer
from tests.support.worker_process import PROGRAM

UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def test_billing_agrees_over_a_broker_and_no_queue_is_left(rabbitmq: RabbitMQServer, broker_vhost: str) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "--transport-url", broker_vhost, "--hosts", "2", "--instances", "60"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert (done.returncode, done.stderr) == (0, ""), done
    assert re.search(f"^ledger {UUID7}$", done.stdout, re.MULTILINE)
    assert "Sequence numbers are gapless on every node" in done.stdout
    assert "differ" not in done.stdout.lower()
    virtual_host = broker_vhost.rpartition("/")[2]
    left = rabbitmq.ctl("-q", "list_queues", "-p", virtual_host, "name").split()
    assert [name for name in left if "demo" in name] == []
