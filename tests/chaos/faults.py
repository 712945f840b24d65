# SPDX-License-Identifier: Apache-2.0
"""The faults of processes: workers, broker and database are stopped, killed or stalled."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.chaos import outside
from tests.chaos.arena import FRAGILE, Arena
from tests.chaos.fault import Fault, Inject, passes
from tests.support.faulty import FaultyWorker
from tests.support.stock import TOPIC
from tracker_worker import faults

_POINT_SECONDS = 15
# Under load, a worker rarely passes this point.
_RARE = "before_cursor"


def _restart(worker: FaultyWorker) -> None:
    worker.heal()
    worker.start()
    worker.wait_ready()


def _kill_one(arena: Arena, draw: random.Random) -> None:
    worker = draw.choice(arena.workers)
    worker.kill()
    passes(draw.uniform(0, 2))
    _restart(worker)


def _kill_both(arena: Arena, draw: random.Random) -> None:
    for worker in arena.workers:
        worker.kill()
    for worker in arena.workers:
        worker.heal()
        worker.start()
    for worker in arena.workers:
        worker.wait_ready()


def _kill_at_point(arena: Arena, draw: random.Random) -> None:
    """Restart one worker with a fault point and terminate the other, so that the first becomes active and dies at the point."""
    doomed, other = draw.sample(arena.workers, 2)
    assert doomed.terminate() == 0
    doomed.ail(draw.choice(faults.POINTS), draw.randint(1, 60))
    doomed.start()
    doomed.wait_ready()
    doomed.arm()
    assert other.terminate() == 0
    try:
        assert doomed.wait(_POINT_SECONDS) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        doomed.kill()  # the point was the rare one
    doomed.heal()
    for worker in (doomed, other):
        worker.start()
    for worker in (doomed, other):
        worker.wait_ready()


def _stall_at_point(arena: Arena, draw: random.Random) -> None:
    """Stop the active worker at a fault point until the standby serves."""
    doomed, standby = draw.sample(arena.workers, 2)
    assert doomed.terminate() == 0
    doomed.ail(draw.choice([point for point in faults.POINTS if point != _RARE]), draw.randint(1, 60), signal.SIGSTOP)
    doomed.start()
    doomed.wait_ready()
    assert standby.terminate() == 0
    _restart(standby)
    doomed.arm()
    doomed.wait_stopped()
    if arena.postgresql is not None:
        arena.wait_answered()
    else:
        # A worker that stops within a commit holds the lock on the file, and no other process can take the lock away.
        passes(draw.uniform(3, 15))
    doomed.signal(signal.SIGCONT)
    doomed.heal()


def _stall(shortest: float, longest: float) -> Inject:
    def inject(arena: Arena, draw: random.Random) -> None:
        worker = draw.choice(arena.workers)
        worker.signal(signal.SIGSTOP)
        passes(draw.uniform(shortest, longest))
        worker.signal(signal.SIGCONT)

    return inject


def _roll(arena: Arena, draw: random.Random) -> None:
    for worker in draw.sample(arena.workers, len(arena.workers)):
        assert worker.terminate() == 0
        _restart(worker)


def _restart_broker(arena: Arena, _draw: random.Random) -> None:
    arena.rabbitmq.restart()


def _kill_broker(arena: Arena, draw: random.Random) -> None:
    arena.rabbitmq.kill()
    passes(draw.uniform(0, 3))
    arena.rabbitmq.start()


def _stop_broker_application(arena: Arena, draw: random.Random) -> None:
    arena.rabbitmq.stop_app()
    passes(draw.uniform(0, 3))
    arena.rabbitmq.start_app()


def _close_connections(arena: Arena, _draw: random.Random) -> None:
    arena.rabbitmq.ctl("close_all_connections", "--vhost", arena.virtual_host, "chaos")


def _delete_queue(arena: Arena, _draw: random.Random) -> None:
    arena.rabbitmq.ctl("delete_queue", "--vhost", arena.virtual_host, f"{TOPIC}.{FRAGILE}")


def _stop_postgresql(arena: Arena, draw: random.Random) -> None:
    assert arena.postgresql is not None
    arena.postgresql.stop(mode=draw.choice(("fast", "immediate")))
    passes(draw.uniform(0, 6))
    arena.postgresql.start()


def _set_back(arena: Arena, draw: random.Random) -> None:
    """Let PostgreSQL fail over to a copy that lacks the last commits."""
    assert arena.postgresql is not None
    copy = arena.postgresql.back_up()
    arena.wait_answered()
    passes(draw.uniform(0, 3))
    arena.postgresql.fail_over(copy)


def _terminate_sessions(arena: Arena, draw: random.Random) -> None:
    """Terminate sessions several times in a row, so that some are in the middle of a transaction."""
    for _ in range(draw.randint(1, 20)):
        with psycopg.connect(arena.database_url.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tracker-worker'"
            )
        passes(draw.uniform(0, 0.1))


def _lock_sqlite(arena: Arena, draw: random.Random) -> None:
    connection = sqlite3.connect(arena.sqlite, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        passes(draw.choice((0.5, 3, 12)))  # 12 s is longer than a worker waits
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _meanwhile(worker_fault: Inject) -> Inject:
    """Make the broker or the store unavailable, and inject ``worker_fault`` during the outage."""

    def inject(arena: Arena, draw: random.Random) -> None:
        away = draw.choice([fault for fault in _AWAY if arena.store in fault.stores])
        with ThreadPoolExecutor(1) as pool:
            outage = pool.submit(away.inject, arena, random.Random(draw.random()))
            passes(draw.uniform(0, 3))
            worker_fault(arena, draw)
            outage.result()
        for worker in arena.workers:
            if not worker.is_alive():
                _restart(worker)

    return inject


def _kill_some(arena: Arena, draw: random.Random) -> None:
    """Kill workers without a restart, because a start needs broker and store."""
    for worker in draw.sample(arena.workers, draw.randint(1, len(arena.workers))):
        worker.kill()


_AWAY = (
    Fault("broker application stopped", _stop_broker_application, 2),
    Fault("broker killed", _kill_broker, 2),
    Fault("PostgreSQL stopped or crashed", _stop_postgresql, 6, ("postgresql",)),
    Fault("SQLite locked by another process", _lock_sqlite, 6, ("sqlite",)),
)

FAULTS = (
    *_AWAY,
    *outside.FAULTS,
    Fault("kill -9 of one worker", _kill_one, 6),
    Fault("kill -9 of both workers", _kill_both, 4),
    Fault("kill -9 at a fault point", _kill_at_point, 8),
    Fault("SIGSTOP at a fault point", _stall_at_point, 6),
    Fault("SIGSTOP for less than a heartbeat", _stall(0.5, 4), 3),
    Fault("SIGSTOP until the standby serves", _stall(12, 18), 3),
    Fault("rolling restart", _roll, 4),
    Fault("broker restarted", _restart_broker, 2),
    Fault("connections closed by the broker", _close_connections, 4),
    Fault("queue deleted", _delete_queue, 2),
    Fault("PostgreSQL sessions ended", _terminate_sessions, 6, ("postgresql",)),
    Fault("kill -9 while broker or store is away", _meanwhile(_kill_some), 4),
    Fault("SIGSTOP while broker or store is away", _meanwhile(_stall(0.5, 12)), 4),
)

SET_BACK = Fault("store set back", _set_back, 6, ("postgresql",))
"""Not among the others: it takes requests back that were answered."""
