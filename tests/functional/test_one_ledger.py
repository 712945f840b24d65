# SPDX-License-Identifier: Apache-2.0
"""One host, one ledger: of workers with different databases for one host, exactly one serves, and the others say why.

What depends on the order of a start is repeated LEDGER_STARTS times (2; ten in the environment ``ledgers`` of tox)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest

from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, PROGRAM, WorkerProcess
from tracker_worker import errors

pytestmark = pytest.mark.long

TIMES = int(os.environ.get("LEDGER_STARTS", "2"))
CURE = "tracker-worker host adopt h1"

MakeMachine = Callable[..., "Machine"]


class Machine(WorkerProcess):
    """A worker with a directory, and so a database, of its own."""

    def ledger_id(self) -> str:
        return str(self.query("SELECT ledger_id FROM histories ORDER BY number DESC LIMIT 1"))

    def query(self, text: str) -> Any:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(text).fetchone()[0]

    def execute(self, text: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(text)

    def copy_from(self, other: Machine) -> None:
        """Have this machine's database be a copy of the other's as it is now."""
        shutil.rmtree(self.database.parent, ignore_errors=True)
        self.database.parent.mkdir(parents=True)
        with closing(sqlite3.connect(other.database)) as source, closing(sqlite3.connect(self.database)) as target:
            source.backup(target)

    def forget(self) -> None:
        """The machine is installed anew."""
        shutil.rmtree(self.database.parent, ignore_errors=True)

    def adopt(self, host: str = "h1") -> subprocess.CompletedProcess[str]:
        return self.command("host", "adopt", host)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAM), f"--config-file={self.configuration}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def is_ready(self) -> bool:
        return " ready: " in self.log()

    def says_why(self) -> bool:
        return CURE in self.log()


@pytest.fixture(params=["quorum", "classic"])
def queue_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_machine(tmp_path: Path, broker_vhost: str, queue_type: str) -> Iterator[MakeMachine]:
    with ExitStack() as stack:

        def make(name: str, *hosts: str) -> Machine:
            directory = tmp_path / name
            directory.mkdir()
            machine = Machine(
                directory,
                transport_url=broker_vhost,
                hosts={host: {"n1": NODE} for host in hosts or ["h1"]},
                options={"bus": {"queue_type": queue_type}},
            )
            stack.callback(machine.close)
            return machine

        yield make


def claim(client: stock.Client, host: str = "h1") -> dict[str, Any]:
    answer: dict[str, Any] = client.call(host, "begin_resource_claim", instance=instance_dict(uuid.uuid4().int % 10**6))
    return answer


def heard(client: stock.Client, host: str) -> str | None:
    """The ledger_id that the worker of a host answers within two seconds."""
    try:
        return str(client.prepare(host, timeout=2).call(stock.CONTEXT, "get_node")["ledger_id"])
    except oslo_messaging.MessagingTimeout:
        return None


def wait_refused(*machines: Machine) -> None:
    for machine in machines:
        wait_until(machine.says_why, lambda machine=machine: f"a refusal:\n{machine.log()}")  # type: ignore[misc]
        assert not machine.is_ready()


def decided(machine: Machine) -> bool:
    return machine.is_ready() or machine.says_why()


@pytest.mark.parametrize("queue_type", ["classic"])
class TestTwoLedgers:
    def test_the_second_one_says_both_ids_and_the_cure_and_serves_neither_with_nor_without_the_first(
        self, make_machine: MakeMachine, client: stock.Client, broker_vhost: str
    ) -> None:
        one, two = make_machine("one"), make_machine("two")
        one.start()
        one.wait_ready()
        two.start()
        wait_refused(two)
        (line,) = [line for line in two.log().splitlines() if CURE in line]
        assert " ERROR " in line
        assert one.ledger_id() in line
        assert two.ledger_id() in line
        assert claim(client)["state"] == "begun"
        with raw.connect(broker_vhost) as connection:
            wait_until(lambda: connection.count("notifications.info") == 2, "both notifications of the first ledger")
        one.kill()
        with pytest.raises(oslo_messaging.MessagingTimeout):
            client.prepare("h1", timeout=12).call(stock.CONTEXT, "oslo_rpc_server_ping")
        assert not two.is_ready()
        with pytest.raises(errors.HostNotServed):
            client.call(None, "list_claims", host="h1")
        with raw.connect(broker_vhost) as connection:
            assert connection.count("notifications.info") == 2
        one.start()
        one.wait_ready()
        assert claim(client)["state"] == "begun"

    def test_a_worker_that_is_refused_for_one_host_serves_its_others(
        self, make_machine: MakeMachine, client: stock.Client
    ) -> None:
        one, two = make_machine("one", "h1"), make_machine("two", "h1", "h2")
        one.start()
        one.wait_ready()
        two.start()
        two.wait_ready()
        assert two.says_why()
        assert "refused: h1" in two.log()
        assert claim(client, "h2")["host"] == "h2"
        assert len(client.call("h1", "list_claims")) == 0

    def test_a_machine_that_was_installed_anew_serves_only_after_it_has_adopted_the_host(
        self, make_machine: MakeMachine, client: stock.Client
    ) -> None:
        machine = make_machine("one")
        machine.start()
        machine.wait_ready()
        before = machine.ledger_id()
        refused = machine.adopt()
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "has 1 consumer;" in refused.stderr
        machine.kill()
        machine.forget()
        machine.start()
        wait_refused(machine)
        assert machine.adopt("h9").returncode == 1
        adopted = machine.adopt()
        assert adopted.returncode == 0, adopted.stderr
        assert before in adopted.stdout
        assert machine.ledger_id() in adopted.stdout
        machine.wait_ready()
        assert claim(client)["state"] == "begun"

    @pytest.mark.timeout(600)
    def test_both_at_once(self, make_machine: MakeMachine, broker_vhost: str) -> None:
        machines = [make_machine("one"), make_machine("two")]
        for _ in range(TIMES):
            with raw.connect(broker_vhost) as connection:
                connection.channel.queue_delete("tracker_ledger.h1")
            for machine in machines:
                machine.start()
            for machine in machines:
                wait_until(lambda machine=machine: decided(machine), machine.log, seconds=90)  # type: ignore[misc]
            assert sorted(machine.is_ready() for machine in machines) == [False, True]
            for machine in machines:
                machine.kill()


class TestCopies:
    def test_a_copy_with_the_original_up(self, make_machine: MakeMachine, client: stock.Client) -> None:
        original, copy = make_machine("original"), make_machine("copy")
        original.start()
        original.wait_ready()
        copy.copy_from(original)
        copy.start()
        wait_refused(copy)
        assert claim(client)["state"] == "begun"
        original.kill()
        with pytest.raises(oslo_messaging.MessagingTimeout):
            client.prepare("h1", timeout=12).call(stock.CONTEXT, "oslo_rpc_server_ping")
        before = copy.ledger_id()
        adopted = copy.adopt()
        assert adopted.returncode == 0, adopted.stderr
        assert copy.ledger_id() != before
        copy.wait_ready()
        assert client.call("h1", "get_node")["ledger_id"] == copy.ledger_id()
        original.start()
        wait_refused(original)

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("queue_type", ["quorum"])
    def test_an_earlier_copy_with_the_original_down(self, make_machine: MakeMachine, client: stock.Client) -> None:
        original, copy = make_machine("original"), make_machine("copy")
        original.start()
        original.wait_ready()
        original.terminate()
        for _ in range(TIMES):
            copy.copy_from(original)
            original.start()
            original.wait_ready()
            original.terminate()
            copy.start()
            wait_refused(copy)
            copy.kill()
        original.start()
        original.wait_ready()

    @pytest.mark.parametrize("queue_type", ["classic"])
    def test_of_two_equal_databases_the_one_that_starts_first_serves(self, make_machine: MakeMachine) -> None:
        machines = [make_machine("one"), make_machine("two")]
        machines[0].start()
        machines[0].wait_ready()
        machines[0].terminate()
        machines[1].copy_from(machines[0])
        machines[1].start()
        machines[1].wait_ready()
        machines[1].terminate()
        machines[0].start()
        wait_refused(machines[0])

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("queue_type", ["quorum"])
    def test_a_start_that_ended_between_database_and_broker_is_no_copy(self, make_machine: MakeMachine) -> None:
        machine = make_machine("one")
        machine.start()
        machine.wait_ready()
        machine.kill()
        for number in range(TIMES):
            machine.execute(f"UPDATE hosts SET previous_token = token, token = 'not on the broker {number}'")
            machine.start()
            machine.wait_ready()
            machine.kill()


def test_standbys_and_restarts_of_one_database_need_nothing(make_machine: MakeMachine, client: stock.Client) -> None:
    one, two = make_machine("one"), make_machine("two")
    two.configure({"tracker": {"state_path": one.directory / "state"}})
    one.start()
    one.wait_ready()
    two.start()
    two.wait_ready()
    assert "standby for h1" in two.log()
    (host,) = json.loads(one.command("host", "list", "--format", "json").stdout)
    names = [str(host["active"]), *host["standbys"]]
    assert [name.split(":")[1] for name in names] == [str(machine.pid()) for machine in (one, two)]
    for active, standby in ((one, two), (two, one)):
        active.kill()
        assert claim(client)["state"] == "begun"
        active.start()
        active.wait_ready()
        assert "host adopt" not in active.log() + standby.log()


# Stock clients leave sockets open when they reconnect.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_ledgers_that_serve_hosts_stay_the_same_over_a_restart_of_the_broker(
    make_machine: MakeMachine, client: stock.Client, rabbitmq: RabbitMQServer
) -> None:
    up, down, other = make_machine("up", "h1"), make_machine("down", "h2"), make_machine("other", "h1", "h2")
    for machine in (up, down):
        machine.start()
    for machine in (up, down):
        machine.wait_ready()
    down.kill()
    rabbitmq.restart()
    other.start()
    for host, owner in (("h1", up), ("h2", down)):
        other.wait_for_log(f"host {host} is not served: the ledger {owner.ledger_id()} ")
        other.wait_for_log(f"tracker-worker host adopt {host}")
    # What is sent before the worker has declared its exchange and queues again is lost.
    assert wait_until(lambda: heard(client, "h1"), up.log) == up.ledger_id()
    assert claim(client, "h1")["state"] == "begun"
    with pytest.raises(errors.HostNotServed):
        client.call(None, "list_claims", host="h2")
    down.start()
    down.wait_ready()
    assert wait_until(lambda: heard(client, "h2"), down.log) == down.ledger_id()
    assert not other.is_ready()
