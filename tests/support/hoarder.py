# SPDX-License-Identifier: Apache-2.0
"""A process with a bus whose deliveries nobody settles until the process is told to."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Hoarder:
    """Starts and commands the process. ``options`` are named as for ``broker_settings``."""

    def __init__(self, url: str, host: str, **options: Any) -> None:
        arguments = [sys.executable, "-m", "tests.support.hoarder", url, host, json.dumps(options)]
        self._process = subprocess.Popen(
            arguments, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def report(self) -> dict[str, int]:
        """Its deliveries, the bytes of their bodies, its attempts to connect, and the most memory it had, in bytes."""
        return self._command("report")

    def settle(self) -> dict[str, int]:
        """Have it settle what it has received, and from now on all that it receives. Returns a report."""
        return self._command("settle")

    def _command(self, name: str) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin)
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main(url: str, host: str, options: dict[str, Any]) -> None:
    from tests.conformance.bus_amqp import Lines, broker_settings
    from tracker_worker.bus.amqp.bus import AMQPBus
    from tracker_worker.bus.base import Delivery, Listener

    lock = threading.Lock()
    kept: list[Delivery] = []
    counted = {"deliveries": 0, "bytes": 0}
    settling = False

    def received(deliveries: Sequence[Delivery]) -> None:
        with lock:
            counted["deliveries"] += len(deliveries)
            counted["bytes"] += sum(len(delivery.body) for delivery in deliveries)
            kept.extend(deliveries)
            settle_locked()

    def settle_locked() -> None:
        if settling:
            bus.receiver.settle(kept)
            kept.clear()

    lines = Lines()
    bus = AMQPBus(broker_settings(url, lines=lines, **options))
    bus.start(
        [host],
        Listener(
            received=received,
            lost=lambda: None,
            confirmed=lambda keys: None,
            refused=lambda refusals: None,
            died=lambda error: sys.exit(1),
        ),
    )
    for command in sys.stdin:
        with lock:
            settling = settling or command.strip() == "settle"
            settle_locked()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            report = {**counted, "attempts": lines.attempts, "connected": bus.connected(), "peak": peak}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
