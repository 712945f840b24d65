# SPDX-License-Identifier: Apache-2.0
"""The subcommands that need a worker or a broker, as an operator runs them."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest

from tests.functional.conftest import MakeWorker
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.commands import check_output
from tests.support.deadline import wait_until
from tests.support.worker_process import PROGRAM, WorkerProcess

HOSTS = {"h1": {"n1": {"vcpus": 8, "memory_mb": 16384, "local_gb": 100}}}
SMALL = ("--vcpus", "1", "--memory-mb", "1024", "--root-gb", "10")


class Operator:
    """Runs subcommands with the configuration of a worker."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker

    def command(self, *arguments: str) -> list[str]:
        return [str(PROGRAM), f"--config-file={self.worker.configuration}", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def json(self, *arguments: str) -> Any:
        """Run a subcommand that must succeed, and return its JSON document."""
        done = self.run(*arguments, "--format", "json")
        assert (done.returncode, done.stderr) == (0, ""), done
        printed = json.loads(done.stdout)
        check_output(arguments, printed)
        return printed

    def refuse(self, *arguments: str) -> str:
        """Run a subcommand that must fail and print nothing, and return its one line on stderr."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), done
        (sentence,) = done.stderr.splitlines()
        return sentence

    @contextmanager
    def watching(self, directory: Path, *arguments: str) -> Iterator[Watch]:
        """Run ``watch``; the body starts once it receives notifications."""
        out, err = directory / "watch.out", directory / "watch.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                self.command("watch", *arguments), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        watch = Watch(process, out, err)
        try:
            watch.wait_said("watching ")
            yield watch
        finally:
            process.kill()
            process.wait()


class Watch:
    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    def lines(self) -> list[str]:
        """The complete lines on stdout."""
        return self._out.read_text(encoding="utf-8").split("\n")[:-1]

    def errors(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def wait_said(self, text: str) -> None:
        wait_until(lambda: text in self.errors(), lambda: f"watch says {text!r}; it says {self.errors()!r}")

    def wait_lines(self, count: int) -> list[str]:
        wait_until(lambda: len(self.lines()) >= count, lambda: f"{count} lines; there are {self.lines()}")
        return self.lines()


@pytest.fixture
def operator(make_worker: MakeWorker) -> Operator:
    """The operator of a worker that serves host h1."""
    worker = make_worker(hosts=HOSTS, options={"tracker": {"audit_interval_seconds": 3600}})
    worker.start()
    worker.wait_ready()
    return Operator(worker)


# --- claims and audits -----------------------------------------------------------------------------------------------


def test_a_claim_is_begun_listed_and_finished_once(operator: Operator) -> None:
    begun = operator.json(
        *("claim", "begin", "--host", "h1", *SMALL, "--ephemeral-gb", "5", "--project", "p1", "--timeout", "300")
    )
    assert (begun["state"], begun["node"], begun["limit_source"]) == ("begun", "n1", "unlimited")
    assert begun["resources"] == {"VCPU": 1, "MEMORY_MB": 1024, "DISK_GB": 15}
    assert operator.json("claim", "list") == [begun]
    assert operator.json("usage") == {"p1": {"instances": 1, **begun["resources"]}}

    finished = operator.json("claim", "finish", begun["claim_id"], "--host", "h1")

    assert finished["state"] == "finished"
    assert operator.json("claim", "list") == []
    assert f"host h1 has no claim {begun['claim_id']}" in operator.refuse(
        "claim", "finish", begun["claim_id"], "--host", "h1"
    )


def test_a_claim_of_a_custom_class_is_limited_by_its_name(operator: Operator) -> None:
    node = {"vcpus": 8, "memory_mb": 16384, "local_gb": 100, "resources": {"VGPU": 4}}
    operator.worker.write_inventory({"h1": {"n1": node}})
    operator.worker.signal(signal.SIGHUP)
    operator.worker.wait_for_log("reloaded")
    operator.json("audit", "--host", "h1")
    claim = ("claim", "begin", "--host", "h1", *SMALL, "--resource", "VGPU=3", "--limit", "VGPU=4", "--limit", "VCPU=8")

    assert operator.json(*claim)["resources"]["VGPU"] == 3

    assert "VGPU: requested 3, used 3, limit 4" in operator.refuse(*claim)
    assert "VGPU: requested 5, used 3, limit" in (
        said := operator.refuse("claim", "begin", "--host", "h1", *SMALL, "--resource", "VGPU=5")
    )
    assert "(must be at most 4 (max_unit))" in said
    assert operator.json("audit", "--host", "h1")[0]["resources"]["VGPU"]["used"] == 3


def test_an_aborted_claim_releases_its_resources(operator: Operator) -> None:
    operator.json("claim", "begin", "--host", "h1", "--uuid", "i-1", *SMALL)
    assert operator.json("claim", "abort", "i-1", "--host", "h1")["state"] == "aborted"
    assert operator.json("node", "show", "n1")["vcpus_used"] == 0


def test_a_refusal_names_every_shortfall_in_one_sentence(operator: Operator) -> None:
    sentence = operator.refuse(
        *("claim", "begin", "--host", "h1", "--vcpus", "9", "--memory-mb", "2048", "--root-gb", "10"),
        *("--limit-vcpu", "8.5", "--limit-memory-mb", "2000", "--limit-disk-gb", "5"),
    )
    assert "VCPU: requested 9, used 0, limit 8" in sentence
    assert "MEMORY_MB: requested 2048, used 512, limit 2000" in sentence
    assert "DISK_GB: requested 10, used 0, limit 5" in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--node", "n9"), "Host h1 has no node n9"),
        (("--limit-vcpu", "nan"), "limits.vcpu: "),
        (("--uuid", ""), "instance.uuid: "),
    ],
)
def test_an_error_of_the_worker_is_printed_as_one_sentence(
    operator: Operator, arguments: tuple[str, ...], says: str
) -> None:
    assert says in operator.refuse("claim", "begin", "--host", "h1", *SMALL, *arguments)


def test_a_command_for_a_host_without_a_worker_fails_immediately(operator: Operator) -> None:
    for arguments in (("claim", "abort", "i-1", "--host", "h9"), ("audit", "--host", "h9")):
        assert "no worker serves host h9" in operator.refuse(*arguments)


def test_a_command_for_a_stopped_worker_fails_after_the_requested_wait(operator: Operator) -> None:
    operator.worker.kill()
    assert "no answer from host h1 within 1 s" in operator.refuse(
        "claim", "begin", "--host", "h1", *SMALL, "--wait", "1"
    )
    assert "no worker is connected" in operator.refuse("audit", "--all")


def test_a_command_without_a_broker_names_the_broker_as_unreachable(
    operator: Operator, rabbitmq: RabbitMQServer
) -> None:
    rabbitmq.stop_app()
    for arguments in (
        ("claim", "begin", "--host", "h1", *SMALL),
        ("audit", "--all"),
        ("watch",),
        ("outbox", "replay", "--host", "h1", "--node", "n1", "--from-sequence", "1"),
    ):
        sentence = operator.refuse(*arguments)
        assert "no broker can be reached" in sentence
        assert rabbitmq.password not in sentence
    assert operator.json("node", "list")[0]["node"] == "n1"


def test_an_audit_shows_the_nodes_after_the_audit(operator: Operator) -> None:
    operator.worker.write_inventory({"h1": {"n1": {"vcpus": 16, "memory_mb": 16384, "local_gb": 100}}})
    operator.worker.signal(signal.SIGHUP)
    operator.worker.wait_for_log("reloaded")

    (view,) = operator.json("audit", "--host", "h1")

    assert view["vcpus"] == 16
    assert operator.json("node", "list") == [view]


def test_an_audit_of_all_reaches_the_worker(operator: Operator) -> None:
    operator.json("claim", "begin", "--host", "h1", *SMALL, "--timeout", "0.001")
    wait_until(
        lambda: operator.json("audit", "--host", "h1") and not operator.json("claim", "list"),
        "an audit expires the claim once the worker has seen the queue empty",
    )
    operator.json("claim", "begin", "--host", "h1", *SMALL, "--timeout", "0.001")
    assert len(operator.json("claim", "list")) == 1

    assert operator.json("audit", "--all") == {"sent": True}

    wait_until(lambda: not operator.json("claim", "list"), "the audit expires the claim")


# --- notifications ---------------------------------------------------------------------------------------------------


def test_watch_takes_no_notification_from_the_queue_of_billing(
    operator: Operator, listener: stock.Listener, tmp_path: Path
) -> None:
    with operator.watching(tmp_path) as watch:
        operator.json("claim", "begin", "--host", "h1", "--uuid", "i-1", *SMALL)
        operator.refuse("claim", "begin", "--host", "h1", "--uuid", "i-2", *SMALL, "--limit-vcpu", "1")
        begun, rejected = watch.wait_lines(2)
        assert begun.split()[1:] == [
            "tracker.claim.begun",
            "h1/n1",
            "#2",
            "i-1",
            "VCPU=1",
            "MEMORY_MB=1024",
            "DISK_GB=10",
        ]
        assert rejected.split()[1:5] == ["tracker.claim.rejected", "h1/n1", "#3", "i-2"]
        assert rejected.endswith("VCPU requested=1 used=1 limit=1")
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(30) == 0
        assert watch.errors().splitlines() == ["watching notifications; end with Ctrl-C"]

    assert [one.sequence for one in listener.wait_for("h1", "n1", 3)] == [1, 2, 3]


def test_watch_goes_on_after_a_message_with_unreadable_properties(
    operator: Operator, broker_vhost: str, tmp_path: Path
) -> None:
    with raw.connect(broker_vhost) as amqp, operator.watching(tmp_path, "--count", "2") as watch:
        amqp.publish_unreadable("notifications.info", b"{}")
        operator.json("claim", "begin", "--host", "h1", "--uuid", "i-1", *SMALL)
        assert watch.process.wait(30) == 0
        assert [line.split()[1] for line in watch.lines()] == ["-", "tracker.claim.begun"]


def test_watch_ends_after_the_requested_number_of_notifications(operator: Operator, tmp_path: Path) -> None:
    with operator.watching(tmp_path, "--count", "2", "--format", "json") as watch:
        for uuid in ("i-1", "i-2", "i-3"):
            operator.json("claim", "begin", "--host", "h1", "--uuid", uuid, *SMALL)
        assert watch.process.wait(30) == 0
        messages = [json.loads(line) for line in watch.lines()]
    assert [message["payload"]["sequence"] for message in messages] == [2, 3]
    assert [message["event_type"] for message in messages] == ["tracker.claim.begun"] * 2


def _answers(client: stock.Client) -> bool:
    try:
        client.call("h1", "get_node")
    except oslo_messaging.MessagingTimeout:
        return False
    return True


def test_watch_continues_after_the_broker_restarts(
    operator: Operator, rabbitmq: RabbitMQServer, broker_vhost: str, tmp_path: Path
) -> None:
    with operator.watching(tmp_path) as watch:
        rabbitmq.stop_app()
        watch.wait_said("connecting again")
        rabbitmq.start_app()
        watch.wait_said("connected again")
        # The exchange is not durable by default: a request that is sent before the worker declares it again has no queue.
        with stock.client(broker_vhost, timeout=2) as client:
            wait_until(lambda: _answers(client), "the worker answers")
        operator.json("claim", "begin", "--host", "h1", "--uuid", "i-1", *SMALL)
        assert "i-1" in watch.wait_lines(1)[0]


def _published(operator: Operator, sequence: int) -> None:
    def done() -> bool:
        (row,) = operator.json("outbox", "status")
        return bool(row["cursor"] == sequence)

    wait_until(done, f"all of {sequence} notifications are published")


def test_a_replay_sends_the_same_messages_again_in_order(operator: Operator, listener: stock.Listener) -> None:
    for uuid in ("i-1", "i-2", "i-3"):
        operator.json("claim", "begin", "--host", "h1", "--uuid", uuid, *SMALL)
    operator.refuse("claim", "begin", "--host", "h1", "--uuid", "i-4", *SMALL, "--limit-vcpu", "1")
    first = listener.wait_for("h1", "n1", 5)
    _published(operator, 5)
    replay = ("outbox", "replay", "--host", "h1", "--node", "n1")

    done = operator.json(*replay, "--from-sequence", "2", "--to-sequence", "4")

    assert done == {"host": "h1", "node": "n1", "topics": ["notifications"], "sent": 3, "missing": []}
    wait_until(lambda: len(listener.heard()) == 8, "three more notifications")
    again = listener.heard()[5:]
    assert [one.sequence for one in again] == [2, 3, 4]
    sent = {one.sequence: (one.message_id, one.metadata["timestamp"], one.payload) for one in first}
    assert all((one.message_id, one.metadata["timestamp"], one.payload) == sent[one.sequence] for one in again)

    assert operator.json(*replay, "--from-sequence", "5")["sent"] == 1
    wait_until(lambda: len(listener.heard()) == 9, "one more notification")
    assert (listener.heard()[8].priority, listener.heard()[8].message_id) == ("info", sent[5][0])
    assert "up to 5, not 6" in operator.refuse(*replay, "--from-sequence", "6")


def test_a_replay_to_one_topic_is_heard_there_only(make_worker: MakeWorker, broker_vhost: str) -> None:
    worker = make_worker(hosts=HOSTS, options={"notifications": {"topics": "notifications, billing"}})
    worker.start()
    worker.wait_ready()
    operator = Operator(worker)
    replay = ("outbox", "replay", "--host", "h1", "--node", "n1", "--from-sequence")
    with stock.listener(broker_vhost) as first, stock.listener(broker_vhost, topics=("billing",)) as billing:
        for uuid in ("i-1", "i-2"):
            operator.json("claim", "begin", "--host", "h1", "--uuid", uuid, *SMALL)
        heard = [one.message_id for one in first.wait_for("h1", "n1", 3)]
        billing.wait_for("h1", "n1", 3)

        def published() -> bool:
            return [row["cursor"] for row in operator.json("outbox", "status")] == [3, 3]

        wait_until(published, "both topics have everything")
        assert operator.json(*replay, "2", "--topic", "billing") == {
            "host": "h1",
            "node": "n1",
            "topics": ["billing"],
            "sent": 2,
            "missing": [],
        }
        wait_until(lambda: len(billing.heard()) == 5, "two more notifications")
        assert [one.message_id for one in billing.heard()] == [*heard, *heard[1:]]
        # What follows on the other topic is the next claim, not a copy.
        operator.json("claim", "begin", "--host", "h1", "--uuid", "i-3", *SMALL)
        first.wait_for("h1", "n1", 4)
        assert [one.sequence for one in first.heard()] == [1, 2, 3, 4]
    refused = operator.refuse(*replay, "2", "--topic", "other")
    assert refused.endswith("[notifications] has no topic other: it has notifications, billing")


def test_a_replay_lists_the_pruned_sequences(operator: Operator, listener: stock.Listener) -> None:
    for uuid in ("i-1", "i-2", "i-3"):
        operator.json("claim", "begin", "--host", "h1", "--uuid", uuid, *SMALL)
    listener.wait_for("h1", "n1", 4)
    _published(operator, 4)
    operator.worker.terminate()
    with closing(sqlite3.connect(operator.worker.database)) as connection, connection:
        connection.execute("DELETE FROM outbox WHERE sequence IN (1, 2, 4)")

    done = operator.run(
        *("outbox", "replay", "--host", "h1", "--node", "n1", "--from-sequence", "1", "--format", "json")
    )

    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["sent"], told["missing"]) == (1, [[1, 2], [4, 4]])
    (sentence,) = done.stderr.splitlines()
    assert "sequences 1 to 2, 4 of h1/n1" in sentence
    wait_until(lambda: [one.sequence for one in listener.heard()] == [1, 2, 3, 4, 3], "the third once more")


# --- the database ----------------------------------------------------------------------------------------------------


def test_only_db_upgrade_creates_the_schema_on_postgresql(
    make_worker: MakeWorker, broker_vhost: str, postgresql_url: str
) -> None:
    operator = Operator(make_worker(hosts=HOSTS, options={"database": {"connection": postgresql_url}}))
    for arguments in (("db", "check"), ("node", "list"), ("outbox", "status")):
        assert operator.refuse(*arguments).endswith("run 'tracker-worker db upgrade'")
    assert operator.json("db", "current")["current"] is None

    assert operator.run("db", "upgrade").returncode == 0

    assert operator.run("db", "check").returncode == 0
    assert operator.json("node", "list") == []
