# SPDX-License-Identifier: Apache-2.0
"""A writer that stalls in the middle of a commit blocks other writers only until the idle timeout of its session."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.conformance import stalled_writer
from tests.support.builders import begin, node_name, uuid
from tests.support.deadline import wait_until
from tests.support.migrated import migrated
from tests.support.store import Writer, load, settle, uuids
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.sql.store import SQLStore

_ROOT = Path(__file__).parents[2]


def test_the_session_of_a_writer_that_stalls_is_ended_and_another_writer_commits(postgresql_url: str) -> None:
    store = SQLStore(migrated(postgresql_url), lock_timeout_seconds=0.2)
    store.start()
    settle(store)
    stalled = subprocess.Popen(
        [sys.executable, "-m", stalled_writer.__name__, postgresql_url],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        process = psutil.Process(stalled.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the writer stalls")

        def goes_on() -> bool:
            try:
                Writer(store).put(begin(2, node=node_name(1))).commit()
            except StoreUnavailable:
                return False
            return True

        wait_until(goes_on, "a commit behind the stalled one", seconds=15)

        stalled.send_signal(signal.SIGCONT)
        _, complaint = stalled.communicate(timeout=30)
        assert b"StoreUnavailable" in complaint
        assert uuids(list(load(store))) == [uuid(2)]
    finally:
        stalled.kill()
        stalled.communicate()
        store.stop()
