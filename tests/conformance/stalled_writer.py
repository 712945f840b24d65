# SPDX-License-Identifier: Apache-2.0
"""A process that stops (SIGSTOP) in the middle of the statements of a commit: ``stalled_writer.py URL``."""

from __future__ import annotations

import os
import signal
import sys

from tests.support.builders import begin, node_name
from tests.support.store import Writer, note
from tracker_worker.store.sql import arrays, engines
from tracker_worker.store.sql.arrays import Binary, BinaryDumper
from tracker_worker.store.sql.store import SQLStore

# More rows than psycopg buffers before it sends.
_ROWS = 2000
_LAST = b"the last one"


class _Stopping(BinaryDumper):
    def dump(self, obj: Binary) -> bytes:
        """Stop this process when psycopg converts the text _LAST for the wire."""
        if _LAST in obj:
            os.kill(os.getpid(), signal.SIGSTOP)
        return obj


def main(url: str) -> None:
    engines.IDLE_TRANSACTION_TIMEOUT_SECONDS = 1
    arrays.BinaryDumper = _Stopping  # type: ignore[misc]
    store = SQLStore(url)
    store.start()
    writer = Writer(store).put(begin(1, node=node_name(1)))
    ledger = writer[node_name(1)]
    for sequence in range(1000, 1000 + _ROWS):
        kind = _LAST.decode() if sequence == 999 + _ROWS else "claim.begun"
        writer.notifications.append(note(ledger, sequence, event_type=kind))
    writer.commit()


if __name__ == "__main__":
    main(sys.argv[1])
