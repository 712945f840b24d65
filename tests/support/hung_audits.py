# SPDX-License-Identifier: Apache-2.0
"""A process that takes 100,000 called audits while its driver hangs, within so much memory more than it has at its start.

    python -m tests.support.hung_audits CALLS MEGABYTES BODY_BYTES [unbounded]

It ends with exit code 0 and the number of calls that wait, or with a MemoryError. ``unbounded`` removes the limit of the calls
that wait, to show that the memory would not be enough then.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.support.builders import HOST
from tests.support.engine import EngineHarness
from tracker_worker.service.chores import audit_calls
from tracker_worker.wire.message import JSON, ReplyTo

_BATCH = 50


class HungPool:
    """Threads of which each hangs."""

    def start(self) -> None: ...

    def submit(self, function: object) -> None: ...

    def stop(self) -> None: ...


def main(calls: int, megabytes: int, body_bytes: int) -> None:
    # The clock stands still, so that no call ends.
    harness = EngineHarness(monotonic=lambda: 1000.0, pool=HungPool())
    harness.connect()
    replies = ReplyTo("replies", "", JSON)
    harness.broker.open_replies(replies.queue, lambda body: None)
    _send(harness, 0, body_bytes)
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    limit = used + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for first in range(0, calls, _BATCH):
        _send(harness, first, body_bytes)
        assert harness.unsettled() == 0
    print(len(harness.engine._audits._calls._waiting), "calls wait")


def _send(harness: EngineHarness, first: int, body_bytes: int) -> None:
    for number in range(first, first + _BATCH):
        message = {
            "method": "update_available_resource",
            "args": {},
            "version": "1.0",
            "_unique_id": f"{number:032x}",
            "_msg_id": f"{number:032x}",
            "_reply_q": "replies",
            "_timeout": 60,
            "_context_request_id": "r" * body_bytes,
        }
        harness.broker.publish(
            HOST, json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode(), deadline=2000.0
        )
    while harness.engine.step(1000.0) == 0.0:
        pass
    harness.monitors = [monitor for monitor in harness.monitors if not monitor.cancelled]


if __name__ == "__main__":
    if sys.argv[4:] == ["unbounded"]:
        audit_calls._MOST_CALLS = audit_calls._MOST_BYTES = 10**9
    main(*map(int, sys.argv[1:4]))
