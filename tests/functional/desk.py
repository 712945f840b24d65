# SPDX-License-Identifier: Apache-2.0
"""An operator at a dead-letter queue."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

from tests.functional.conftest import HOST_TOPIC
from tests.functional.test_cli import Operator
from tests.support import raw
from tests.support.commands import check_output
from tests.support.deadline import wait_until
from tests.support.worker_process import WorkerProcess

ARGUMENTS = {"quorum": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}, "classic": {}}
# A tracker-worker that is killed before it removes a replayed message from the dead-letter queue.
_DYING = """
import os, signal
import tracker_worker.cli.threading_backend
from tracker_worker.cli.main import main
from tracker_worker.cli.dead_letters.queue import DeadLetterQueue
DeadLetterQueue.remove = lambda queue, message: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


class Desk:
    """An operator at the dead-letter queue of a broker, and plain AMQP to the same broker. The worker may be stopped."""

    def __init__(self, worker: WorkerProcess, amqp: raw.RawConnection) -> None:
        self.worker = worker
        self.operator = Operator(worker)
        self.amqp = amqp

    def declare(self, queue_type: str) -> None:
        """Declare the dead-letter queue as a worker does."""
        self.amqp.channel.queue_declare(
            raw.DEAD_LETTERS, durable=True, auto_delete=False, arguments=ARGUMENTS[queue_type]
        )

    def put(self, body: bytes, *, to: str, exchange: str = raw.EXCHANGE, age: int = 0, **properties: Any) -> None:
        """Publish a dead letter as a worker does, with a time ``age`` seconds ago."""
        parked = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
        headers = {
            **properties.pop("headers", {}),
            "x-tracker-reason": f"{properties.pop('code', 'invalid_input')}: it is so",
            "x-tracker-exchange": exchange,
            "x-tracker-routing-key": to,
            "x-tracker-time": parked,
        }
        self.amqp.publish(raw.DEAD_LETTERS, body, exchange="", headers=headers, **properties)

    def fill(self, count: int, *, to: str = HOST_TOPIC, **arguments: Any) -> list[str]:
        """Publish ``count`` dead letters that hold requests; return the unique ids of the requests."""
        requests = [self.amqp.request("get_node", {}) for _ in range(count)]
        for request in requests:
            self.put(raw.packed(request), to=to, **arguments)
        wait_until(lambda: self.amqp.count(raw.DEAD_LETTERS) >= count, f"{count} letters")
        return [request["_unique_id"] for request in requests]

    def mailbox(self, name: str) -> str:
        """Declare a host's queue without a worker."""
        self.amqp.channel.exchange_declare(raw.EXCHANGE, "topic", durable=False, auto_delete=False)
        self.amqp.channel.queue_declare(name, durable=True, auto_delete=False)
        self.amqp.channel.queue_bind(name, raw.EXCHANGE, name)
        return name

    def list(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.operator.json("dead-letter", "list")
        return listed

    def unique_ids(self) -> list[str]:
        return [row["unique_id"] for row in self.list()]

    def replay_and_die(self) -> None:
        """Replay the first dead letter with a command that is killed before it removes the dead letter."""
        arguments = self.operator.command("dead-letter", "replay", "1")[1:]
        died = subprocess.run([sys.executable, "-c", _DYING, *arguments], stdin=subprocess.DEVNULL, timeout=60)
        assert died.returncode == -signal.SIGKILL

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.operator.run("dead-letter", *arguments, "--format", "json")
        assert done.returncode == code, done
        printed = json.loads(done.stdout)
        check_output(("dead-letter", *arguments), printed)
        return printed
