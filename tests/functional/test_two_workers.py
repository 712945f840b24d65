# SPDX-License-Identifier: Apache-2.0
"""Two workers on the same hosts, one active and one standby: the books balance whatever happens to the active worker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.invariants.record import ERROR, RESULT, SENT
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.faulty import FaultyWorker
from tests.support.migrated import migrated
from tests.support.run import HOSTS, SHORT_HEARTBEAT, scheduler_run
from tests.support.worker_process import NODE, Nodes, WorkerProcess

CHORES = "this worker does the chores of host"
MANY: dict[str, Nodes] = {f"h{number}": {f"n{number}": NODE} for number in range(50)}

MakeWorker = Callable[..., FaultyWorker]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str, database_url: str) -> Iterator[MakeWorker]:
    """Makes workers by name on one store and one broker; they are not started."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> FaultyWorker:
            worker = FaultyWorker(
                tmp_path,
                transport_url=broker_vhost,
                hosts=options.pop("hosts", HOSTS),
                options={"database": {"connection": database_url}, **options},
                name=name,
            )
            stack.callback(worker.close)
            return worker

        yield make


@pytest.fixture
def pair(make_worker: MakeWorker) -> tuple[FaultyWorker, FaultyWorker]:
    """The active worker and the standby. The short heartbeat lets the broker notice a silent worker soon. They are not
    started.
    """
    first, second = (make_worker(name, oslo_messaging_rabbit=SHORT_HEARTBEAT) for name in ("first", "second"))
    return first, second


def start(*workers: WorkerProcess) -> None:
    """Start the workers one after the other, so that the first becomes the active worker."""
    for worker in workers:
        worker.start()
        worker.wait_ready()


def test_the_standby_takes_over_within_seconds_when_the_active_worker_is_killed(
    make_worker: MakeWorker, broker_vhost: str, database_url: str
) -> None:
    first, second = make_worker("first"), make_worker("second")
    start(first, second)
    with scheduler_run(broker_vhost, database_url, shared_topic=False) as working:
        with working.at_work():
            working.wait_answers(50)
            assert first.log().count(CHORES) == len(HOSTS)
            assert CHORES not in second.log()

            first.kill()

            # This is sooner than the broker would miss a heartbeat.
            working.wait_answers(20, seconds=10)
            second.wait_for_log(CHORES, times=len(HOSTS))

        working.prove(second)


def test_a_worker_that_stalls_before_a_commit_decides_again_after_a_takeover(
    pair: tuple[FaultyWorker, FaultyWorker], broker_vhost: str, database_url: str
) -> None:
    first, second = pair
    first.ail("before_commit", 5, signal.SIGSTOP)
    start(first, second)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            first.arm()
            first.wait_stopped()
            # The broker redelivers the unacknowledged messages of the first worker to the second.
            working.wait_answers(50)

            first.signal(signal.SIGCONT)

            first.wait_for_log("another worker was first")
            first.wait_for_log("tracker-consumer: connected", times=2)
            second.kill()
            # The first worker continues on the second worker's state.
            working.wait_answers(50, seconds=10)

        working.prove(first)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_that_resumes_after_a_takeover_answers_from_the_stored_state(
    pair: tuple[FaultyWorker, FaultyWorker], broker_vhost: str, database_url: str
) -> None:
    first, second = pair
    start(first, second)
    with scheduler_run(broker_vhost, database_url) as working:
        instances = [instance_dict(number, node="n1", **sized(vcpus=1)) for number in (1, 2)]
        working.client.call("h1", "begin_resource_claim", instance=instances[0])
        first.signal(signal.SIGSTOP)
        second_claim = working.client.call("h1", "begin_resource_claim", instance=instances[1])
        assert second_claim.reply["state"] == "begun"
        first.signal(signal.SIGCONT)
        first.wait_for_log("tracker-consumer: connected", times=2)
        second.kill()

        view = working.client.call("h1", "get_node", node="n1").reply
        claims = working.client.call("h1", "list_claims", node="n1").reply

        assert (view["generation"], view["vcpus_used"]) == (second_claim.reply["generation"], 2)
        assert {claim["instance_uuid"] for claim in claims} == {instance["uuid"] for instance in instances}
        working.prove(first)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_that_stalls_in_a_commit_does_not_block_its_successor(
    pair: tuple[FaultyWorker, FaultyWorker], broker_vhost: str, database_url: str
) -> None:
    first, second = pair
    start(first, second)
    url = database_url.replace("+psycopg", "", 1)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with (
        # The second worker also serves the shared topic and might then be the worker that waits for the rows.
        scheduler_run(broker_vhost, database_url, timeout=60, shared_topic=False) as working,
        psycopg.connect(url) as other,
        psycopg.connect(url, autocommit=True) as admin,
    ):
        with working.at_work():
            other.execute("SELECT 1 FROM nodes FOR UPDATE")
            wait_until(lambda: admin.execute(waiting).fetchall(), "the worker waits for the rows")
            first.signal(signal.SIGSTOP)
            # The commit is one statement: the first worker's session ends it, although the worker is stopped.
            other.rollback()

            working.wait_answers(50, seconds=60)

            first.signal(signal.SIGCONT)
            first.wait_for_log("tracker-consumer: connected", times=2)

        working.prove(first, second)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_rolling_restart_under_load_fails_no_call(
    make_worker: MakeWorker, broker_vhost: str, database_url: str
) -> None:
    first, second = make_worker("first"), make_worker("second")
    start(first, second)
    with scheduler_run(broker_vhost, database_url, shared_topic=False) as working:
        with working.at_work():
            for worker in (first, second, first):
                assert worker.terminate(10) == 0
                working.wait_answers(20)
                start(worker)

        # Only claims beyond the limits and invalid requests may be refused.
        business = {"insufficient_resources", "claim_conflict", "invalid_input"}
        failed = [one for one in working.requests if one.outcome not in (RESULT, SENT) and one.error not in business]
        assert failed == []
        assert {one.outcome for one in working.requests} == {RESULT, SENT, ERROR}
        working.settle()
        # A clean stop publishes no notification twice.
        assert len({one.message_id for one in working.heard}) == len(working.heard)
        working.prove(first, second)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_the_active_worker_does_the_chores_and_a_stop_hands_them_over(
    make_worker: MakeWorker, broker_vhost: str, database_url: str
) -> None:
    chores = {"tracker": {"audit_interval_seconds": 1}}
    first, second = make_worker("first", **chores), make_worker("second", **chores)
    start(first, second)
    with scheduler_run(broker_vhost, database_url) as working:
        for number, active in enumerate((first, second)):
            active.wait_for_log(CHORES, times=len(HOSTS))
            instance = instance_dict(number, node="n1")
            working.client.call("h1", "begin_resource_claim", instance=instance, timeout=0.001)
            active.wait_for_log(f"ClaimExpired instance={instance['uuid']} node=h1/n1")
            if active is first:
                assert "ClaimExpired" not in second.log()
                assert CHORES not in second.log()
                assert first.terminate() == 0

        working.settle()
        expired = [one.message_id for one in working.heard if one.event_type == "tracker.claim.expired"]
        assert len(expired) == 2
        assert len({one.message_id for one in working.heard}) == len(working.heard)
        working.prove(second)


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_standby_takes_over_fifty_hosts(make_worker: MakeWorker, broker_vhost: str, database_url: str) -> None:
    first, second = make_worker("first", hosts=MANY), make_worker("second", hosts=MANY)
    start(first, second)
    with scheduler_run(broker_vhost, database_url, hosts=MANY) as working:
        with working.at_work():
            working.wait_answers(50)
            first.kill()
            working.wait_answers(50)

        for number, host in enumerate(MANY):
            instance = instance_dict(number, node=f"n{number}")
            assert working.client.call(host, "begin_resource_claim", instance=instance).outcome == RESULT
        working.prove(second)
