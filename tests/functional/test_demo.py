# SPDX-License-Identifier: Apache-2.0
"""The demo, in memory and over a broker: billing agrees with the ledger and the scheduler, and nothing is left behind."""

from __future__ import annotations

import json
import re
import subprocess

from tests.servers import RabbitMQServer
from tests.support.worker_process import PROGRAM

UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def run(*arguments: str, on_stderr: bool = False) -> str:
    """Run the demo, which must succeed, and return what it prints on stdout; where ``on_stderr``, it prints there too."""
    done = subprocess.run(
        [PROGRAM, "demo", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, bool(done.stderr)) == (0, on_stderr), done
    return done.stdout


def check(printed: str) -> None:
    assert re.search(f"^ledger {UUID7}$", printed, re.MULTILINE)
    text = " ".join(printed.split())
    assert "Sequence numbers are gapless on every node" in text
    assert "The sums that billing makes from notifications alone equal the ledger" in text
    assert "The bill of the moved instances is what the scheduler knows: difference 0 s" in text
    assert "DIFFERS" not in text
    invoices = [part.split("By ")[0] for part in text.split("Invoice: resource-hours")[1:]]
    assert len(invoices) == len(re.findall(": difference 0 (?!s)|: difference 0$", text)) == 2
    assert invoices[0] == invoices[1]
    assert re.search(r"lost \d+ notifications: missing are host-\d", text)
    assert "It has caught up from the workers: missing are none" in text
    for result in ("resized", "migrated", "live-migrated", "evacuated", "confirmed", "reverted"):
        assert re.search(rf"\d+ {result}\b", text), result


def test_billing_agrees_over_a_broker_and_no_queue_is_left(rabbitmq: RabbitMQServer, broker_vhost: str) -> None:
    check(run("--transport-url", broker_vhost, "--hosts", "2", "--instances", "120"))

    virtual_host = broker_vhost.rpartition("/")[2]
    left = rabbitmq.ctl("-q", "list_queues", "-p", virtual_host, "name").split()
    assert [name for name in left if "demo" in name] == []


def test_billing_agrees_in_memory() -> None:
    check(run("--hosts", "3", "--instances", "200"))


def test_the_invoice_is_printed_for_programs() -> None:
    printed = json.loads(run("--hosts", "2", "--instances", "60", "--format", "json", on_stderr=True))
    assert re.fullmatch(UUID7, printed["ledger_id"])
    assert printed["invoice"]["difference"] == 0
    projects = printed["invoice"]["projects"]
    assert projects
    assert all(hours.keys() == {"VCPU", "MEMORY_MB", "DISK_GB"} for hours in projects.values())
    assert all(amount > 0 for hours in projects.values() for amount in hours.values())
