# SPDX-License-Identifier: Apache-2.0
"""What a worker tells systemd, and what it does not tell."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from pathlib import Path

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.faulty import HANG, FaultyWorker
from tests.support.health import systemd
from tests.support.worker_process import NODE, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}
ALIVE = "WATCHDOG=1"


def test_systemd_learns_when_the_worker_is_ready_reloads_and_stops(make_worker: MakeWorker, tmp_path: Path) -> None:
    with systemd(tmp_path) as manager:
        worker = make_worker(hosts=HOSTS, environment=manager.environment)
        worker.start()

        *before, ready = manager.wait_for("READY=1")
        assert ready == "READY=1"
        assert " ready: " in worker.log()
        assert all(said.startswith("STATUS=") for said in before)
        active = f"STATUS=active for {HOST}"
        assert active in before or manager.wait_for("STATUS=active")[-1] == active

        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        worker.reload()
        first, second = manager.wait_for("RELOADING=1")[-1].splitlines()
        assert first == "RELOADING=1"
        name, _, microseconds = second.partition("=")
        assert name == "MONOTONIC_USEC"
        assert began <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert manager.wait_for("READY=1")[-1] == "READY=1"

        assert worker.terminate() == 0
        assert manager.wait_for("STOPPING=1")[-1].splitlines()[0] == "STOPPING=1"
        assert not [said for said in manager.hear(0.2) if said.startswith("READY")]


def test_a_worker_that_is_stopped_gives_no_sign_of_life(make_worker: MakeWorker, tmp_path: Path) -> None:
    with systemd(tmp_path, watchdog_seconds=1) as manager:
        worker = make_worker(hosts=HOSTS, environment=manager.environment)
        worker.start()
        manager.wait_for("READY=1")
        signs = manager.hear(5).count(ALIVE)
        assert 7 <= signs <= 11  # one each half second

        worker.signal(signal.SIGSTOP)
        manager.hear(0.5)
        assert manager.hear(3) == []

        worker.signal(signal.SIGCONT)
        manager.wait_for(ALIVE, seconds=5)


def test_signs_of_life_come_before_ready_while_the_broker_is_away(tmp_path: Path) -> None:
    server = RabbitMQServer()
    with closing(server), systemd(tmp_path, watchdog_seconds=2) as manager:
        worker = WorkerProcess(tmp_path, transport_url=server.url, hosts=HOSTS, environment=manager.environment)
        with closing(worker):
            worker.start()
            manager.wait_for(ALIVE)
            said = manager.hear(5)
            assert said.count(ALIVE) >= 4
            assert f"127.0.0.1:{server.port}" in [line for line in said if line.startswith("STATUS=")][-1]
            assert "READY=1" not in said

            server.open()

            manager.wait_for("READY=1")


def test_an_engine_that_hangs_gives_no_sign_of_life(tmp_path: Path, broker_vhost: str) -> None:
    with systemd(tmp_path, watchdog_seconds=1) as manager, stock.client(broker_vhost) as client:
        worker = FaultyWorker(tmp_path, transport_url=broker_vhost, hosts=HOSTS, environment=manager.environment)
        with closing(worker):
            worker.ail("before_commit", 1, HANG)
            worker.start()
            manager.wait_for("READY=1")
            worker.arm()
            client.cast(HOST, "begin_resource_claim", instance=instance_dict())
            wait_until(lambda: ALIVE not in manager.hear(2), "the engine hangs")

            assert ALIVE not in manager.hear(3)  # although all other threads go on
            assert worker.is_alive()


def test_a_worker_whose_hosts_are_all_refused_never_says_that_it_is_ready(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    first = make_worker(hosts=HOSTS, name="first")
    first.start()
    first.wait_ready()
    assert first.terminate() == 0
    with systemd(tmp_path, watchdog_seconds=2) as manager:
        other = make_worker(
            hosts=HOSTS,
            options={"database": {"connection": f"sqlite:///{tmp_path / 'other.sqlite'}"}},
            environment=manager.environment,
            name="other",
        )
        other.start()
        refused = manager.wait_for(f"STATUS={HOST} is not served")
        assert "tracker-worker host adopt" in refused[-1]

        other.reload()

        said = [*refused, *manager.hear(5)]
        assert not [line for line in said if line.startswith(("READY", "RELOADING"))]
        assert said.count(ALIVE) >= 4
