# SPDX-License-Identifier: Apache-2.0
"""The common part of these programs: configuration, readiness, termination."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from oslo_config import cfg

from tracker_worker.cli.context import Settings


def run(serving: Callable[[cfg.ConfigOpts], AbstractContextManager[None]]) -> None:
    """Hold the context manager open until SIGTERM, and write ``ready`` once it is entered."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    conf = Settings((sys.argv[1],), ()).load()
    with serving(conf):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        ended.wait()
