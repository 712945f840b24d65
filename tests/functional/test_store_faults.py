# SPDX-License-Identifier: Apache-2.0
"""The store is unavailable, locked by another session, or full: requests wait, none is lost, and the broker connections
stay open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_start_stop import locked
from tests.servers import PostgreSQLServer
from tests.servers.proxy import Proxy
from tests.support import stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.disk import small_disk
from tests.support.migrated import migrated
from tests.support.run import HOSTS, SHORT_HEARTBEAT, connections, scheduler_run
from tests.support.worker_process import WorkerProcess
from tracker_worker.errors import StoreUnavailable

Session = psycopg.Connection[Any]


@contextmanager
def session(url: str, *, autocommit: bool = False) -> Iterator[Session]:
    """A session of another program, rolled back at the end."""
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=autocommit) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def database_url(postgresql_url: str) -> str:
    return migrated(postgresql_url)


@pytest.fixture
def start_worker(make_worker: MakeWorker) -> Callable[..., WorkerProcess]:
    """Start a worker with its ledgers in ``database_url``, and wait until it is ready."""

    def start_worker(database_url: str, **arguments: Any) -> WorkerProcess:
        # What is lost is to be a commit of decisions, and not one of refusals, which nobody waits for.
        options = {
            "database": {"connection": database_url},
            "oslo_messaging_rabbit": {**SHORT_HEARTBEAT},
            "tracker": {"refusals_kept": 0},
        }
        worker = make_worker(**{"hosts": HOSTS, "options": options, **arguments})
        worker.start()
        worker.wait_ready()
        return worker

    return start_worker


def test_postgresql_may_be_stopped_and_started_under_load(
    start_worker: Callable[..., WorkerProcess], postgresql: PostgreSQLServer, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            postgresql.stop(mode="immediate")
            # One heartbeat of the broker has passed by now, and another one passes before the next log line.
            worker.wait_for_log("again in 2 s")
            before = working.results
            worker.wait_for_log("again in 2 s", times=2)
            assert working.results == before
            postgresql.start()
            working.wait_answers(100)

        assert connections(worker) == 2
        working.prove(worker)


def test_sessions_may_be_ended_under_load(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with scheduler_run(broker_vhost, database_url) as working, session(database_url, autocommit=True) as admin:
        with working.at_work():
            for times in range(1, 6):
                wait_until(lambda: end_sessions(admin), "the worker has a session")
                worker.wait_for_log("messages wait", times=times)
                working.wait_answers(20)

        working.prove(worker)


def end_sessions(admin: Session, *, waiting: bool = False) -> int:
    """End every session of the workers, or only sessions that wait for a lock. Return the number of ended sessions."""
    found = admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tracker-worker' "
        "AND datname = current_database() AND (wait_event_type = 'Lock' OR NOT %s)",
        [waiting],
    )
    return len(found.fetchall())


def wait_for_a_lock_queue(admin: Session) -> None:
    """Wait until a worker waits for another session's lock."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tracker-worker' AND datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    wait_until(lambda: admin.execute(query).fetchall(), "a worker waits for a lock")


def test_a_session_may_be_ended_in_the_middle_of_a_transaction(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with (
        scheduler_run(broker_vhost, database_url) as working,
        session(database_url, autocommit=True) as admin,
        session(database_url) as other,
    ):
        with working.at_work():
            # The worker has written its nodes when it waits for the inbox.
            other.execute("LOCK TABLE inbox IN SHARE MODE")
            wait_until(lambda: end_sessions(admin, waiting=True), "a transaction is ended half way")
            worker.wait_for_log("messages wait")
            other.rollback()
            working.wait_answers(50)

        working.prove(worker)


def test_a_commit_whose_answer_is_lost_has_its_effect_once(
    start_worker: Callable[..., WorkerProcess], postgresql: PostgreSQLServer, broker_vhost: str, database_url: str
) -> None:
    with closing(Proxy(postgresql.port)) as proxy:
        proxy.open()
        worker = start_worker(database_url.replace(f":{postgresql.port}/", f":{proxy.port}/"))
        with scheduler_run(broker_vhost, database_url) as working:
            with working.at_work():
                for times in range(1, 4):
                    proxy.lose_answer_to(b"COMMIT")
                    worker.wait_for_log("messages wait", times=times)
                    working.wait_answers(20)

            working.prove(worker)


def test_a_silent_server_times_out_and_is_used_again_once_it_answers(
    start_worker: Callable[..., WorkerProcess], postgresql: PostgreSQLServer, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            with postgresql.frozen():
                worker.wait_for_log("the server has been silent")
                before = working.results
                for times in range(1, 4):  # each has its own time: chores wait for the server in between
                    worker.wait_for_log("messages wait", times=times)
                assert working.results == before
            working.wait_answers(50)

        assert connections(worker) == 2
        working.prove(worker)


def test_a_half_open_connection_times_out_and_is_opened_again(
    start_worker: Callable[..., WorkerProcess], postgresql: PostgreSQLServer, broker_vhost: str, database_url: str
) -> None:
    with closing(Proxy(postgresql.port)) as proxy:
        proxy.open()
        worker = start_worker(database_url.replace(f":{postgresql.port}/", f":{proxy.port}/"))
        with scheduler_run(broker_vhost, database_url) as working:
            with working.at_work():
                proxy.stall()
                worker.wait_for_log("the server has been silent")
                working.wait_answers(50)

            assert connections(worker) == 2
            working.prove(worker)


def test_a_worker_waits_for_rows_that_another_session_locks(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with scheduler_run(broker_vhost, database_url) as working, session(database_url) as other:
        with working.at_work():
            other.execute("SELECT 1 FROM nodes FOR UPDATE")
            worker.wait_for_log("lock timeout", times=2)
            before = working.results
            worker.wait_for_log("lock timeout", times=3)
            assert working.results == before
            other.rollback()
            working.wait_answers(50)

        assert connections(worker) == 2
        working.prove(worker)


def test_a_worker_rolled_back_by_a_deadlock_decides_again(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with (
        scheduler_run(broker_vhost, database_url) as working,
        session(database_url, autocommit=True) as admin,
        session(database_url) as other,
    ):
        with working.at_work():
            # The worker's session then detects the deadlock, one second after it began to wait.
            other.execute("SET deadlock_timeout = '60s'")
            other.commit()
            # The worker waits for one of these rows when it has locked a node.
            other.execute(
                "INSERT INTO outbox (stream_id, sequence, message_id, event_type, priority, payload, asked, occurred_at)"
                " SELECT id, sequence + more, '', '', '', '', '', 0 FROM streams, generate_series(1, 1000) AS more"
                " ON CONFLICT DO NOTHING"
            )
            wait_for_a_lock_queue(admin)
            other.execute("SELECT 1 FROM nodes FOR UPDATE")
            other.rollback()
            worker.wait_for_log("deadlock with another writer")
            working.wait_answers(50)

        working.prove(worker)


def test_a_worker_with_a_serialization_failure_decides_again(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    with session(database_url, autocommit=True) as admin, session(database_url) as other:
        name = database_url.rpartition("/")[2]
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        worker = start_worker(database_url)
        with scheduler_run(broker_vhost, database_url) as working:
            with working.at_work():
                other.execute("UPDATE nodes SET state = state")
                wait_for_a_lock_queue(admin)
                other.commit()
                worker.wait_for_log("could not serialize")
                working.wait_answers(50)

            working.prove(worker)


def test_a_call_that_would_expire_waiting_for_a_lock_gets_store_unavailable(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(database_url)
    with session(database_url) as other:
        other.execute("SELECT 1 FROM nodes FOR UPDATE")
        check_told(worker, broker_vhost, other.rollback)


def check_told(worker: WorkerProcess, url: str, free: Callable[[], Any]) -> None:
    """Check a store that cannot be written until ``free`` is called: calls that would expire get StoreUnavailable, casts
    wait.
    """
    instances = [instance_dict(number, node="n1", **sized(vcpus=1, memory_mb=100, disk_gb=1)) for number in (1, 2, 3)]
    with stock.client(url, timeout=4) as hasty, stock.client(url, timeout=60) as patient, ThreadPoolExecutor(1) as pool:
        patient.cast(HOST, "begin_resource_claim", instance=instances[0])
        waiting = pool.submit(patient.call, HOST, "begin_resource_claim", instance=instances[1])
        with pytest.raises(StoreUnavailable):
            hasty.call(HOST, "begin_resource_claim", instance=instances[2])
        assert not waiting.done()
        free()
        assert waiting.result(30)["instance_uuid"] == instances[1]["uuid"]
        held = patient.call(HOST, "list_claims", node="n1")
        # The outcome of the third call is unknown to its caller: the instance may or may not have an allocation.
        assert {instances[0]["uuid"], instances[1]["uuid"]} <= {claim["instance_uuid"] for claim in held}
        claim = patient.call(HOST, "begin_resource_claim", instance=instances[2])
        assert claim["instance_uuid"] == instances[2]["uuid"]
        view = patient.call(HOST, "get_node", node="n1")
        # The inventory, and each claim once.
        assert (view["running_vms"], view["sequence"]) == (3, 4)
    assert connections(worker) == 2


def test_a_worker_waits_for_an_sqlite_file_that_another_process_locks(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, tmp_path: Path
) -> None:
    path = tmp_path / "tracker.sqlite"
    worker = start_worker(f"sqlite:///{path}")
    with scheduler_run(broker_vhost, f"sqlite:///{path}") as working:
        with working.at_work():
            with locked(path):
                worker.wait_for_log("database is locked", times=2)
                before = working.results
                worker.wait_for_log("database is locked", times=3)
                assert working.results == before
            working.wait_answers(50)

        assert connections(worker) == 2
        working.prove(worker)


def test_a_call_that_would_expire_waiting_for_an_sqlite_file_gets_store_unavailable(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, tmp_path: Path
) -> None:
    path = tmp_path / "tracker.sqlite"
    worker = start_worker(f"sqlite:///{path}")
    with closing(locked(path).gen) as holding:
        next(holding)
        check_told(worker, broker_vhost, lambda: next(holding, None))


def test_a_worker_waits_for_space_on_a_full_disk(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path) as disk:
        url = f"sqlite:///{disk.path / 'tracker.sqlite'}"
        worker = start_worker(url, environment=disk.environment)
        with closing(worker), scheduler_run(broker_vhost, url) as working:
            with working.at_work():
                disk.fill()
                worker.wait_for_log("disk is full")
                worker.wait_for_log("again in 2 s")
                before = working.results
                worker.wait_for_log("again in 2 s", times=2)
                assert working.results == before
                disk.free()
                working.wait_answers(50)

            assert connections(worker) == 2
            working.prove(worker)
