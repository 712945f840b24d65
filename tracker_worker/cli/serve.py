# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker serve``: run the worker in the foreground."""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType

import click

from tracker_worker.cli.context import Settings, start_logging
from tracker_worker.cli.log_queue import LogQueue
from tracker_worker.service.worker import Worker
from tracker_worker.threads import NamedThread

LOG = logging.getLogger(__name__)

_READY_CHECK_SECONDS = 0.1
# The worker learns within this number of checks for which hosts the broker has made it the active one.
_STANDING_CHECKS = 10
# New objects between two runs of the garbage collector: they come from some thousand requests; Python's default corresponds
# to ten requests.
_GARBAGE_THRESHOLD = 50_000
# A log that hangs delays the end of a worker that hangs by so long.
_LAST_WORDS_SECONDS = 1.0


@click.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serve the hosts of [tracker] hosts until TERM or INT.

    TERM or INT finishes the batch in hand and stops with exit code 0; a second TERM or INT stops immediately with exit
    code 1. HUP reads the mutable options and the static inventory file again and audits. The exit code is also 1 when a
    part of the worker fails.
    """
    events: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
    stopping = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number in (signal.SIGTERM, signal.SIGINT):
            os._exit(1)  # the second signal: memory holds nothing that would be lost
        stopping = stopping or number != signal.SIGHUP
        events.put(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    conf = settings.load()
    start_logging(conf)
    log = LogQueue()
    log.adopt()
    log.start()
    worker = Worker(conf, died=events.put, stalled=partial(_end_stalled, log))
    worker.start()
    announced = False
    checks = 0
    code = 0
    while True:
        try:
            event = events.get(timeout=None if announced else _READY_CHECK_SECONDS)
        except queue.Empty:
            if worker.ready():
                checks += 1
                worker.probe()
            if checks and (worker.settled() or checks > _STANDING_CHECKS):
                announced = True
                LOG.info("ready: %s", worker.standing())
                notify_systemd("READY=1")
                _freeze_memory()
            continue
        if event == signal.SIGHUP:
            worker.reload()
            log.adopt()
            continue
        if isinstance(event, BaseException):
            LOG.critical("a part of the worker failed: %s", event)
            code = 1
        else:
            LOG.info("stopping on signal %s", event)
        break
    notify_systemd("STOPPING=1")
    # Stop on another thread: this thread handles the signals, and could not do so inside a database driver that waits.
    with ThreadPoolExecutor(1) as stopping_thread:
        stopping_thread.submit(worker.stop).result()
    LOG.info("stopped")
    log.close(_LAST_WORDS_SECONDS)
    # A driver that hangs may still hold a thread: exit without joining threads.
    os._exit(code)


def _end_stalled(log: LogQueue, sentence: str) -> None:
    """End the process, whatever its other threads do: what they hold may be needed to log or to stop."""

    def say() -> None:
        LOG.critical("%s", sentence)
        log.close(_LAST_WORDS_SECONDS)

    saying = NamedThread(target=say, name="tracker-last")
    saying.start()
    saying.join(_LAST_WORDS_SECONDS)
    os._exit(1)  # the system closes the connections, and the broker gives the hosts to a standby


def _freeze_memory() -> None:
    """Exempt all present objects, which live as long as the worker, from garbage collection.

    Collecting them again would pause the worker, and every caller would wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


def notify_systemd(state: str) -> None:
    """Send ``state`` to systemd by the protocol of sd_notify(3); without NOTIFY_SOCKET do nothing.

    The state is a datagram to the socket that NOTIFY_SOCKET names; a leading '@' means the abstract name space.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
