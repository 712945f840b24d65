# SPDX-License-Identifier: Apache-2.0
"""A copy of a message that changed nothing is answered as before, by any worker and after any crash: it never ends a claim that
was begun in the meantime.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC
from tests.servers import RabbitMQServer
from tests.support import raw
from tests.support.callers import small
from tests.support.deadline import wait_until
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, WorkerProcess

MakeWorker = Callable[[str], WorkerProcess]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str, database_url: str) -> Iterator[MakeWorker]:
    """Makes ready workers by name."""
    with ExitStack() as stack:

        def make(name: str) -> WorkerProcess:
            worker = WorkerProcess(
                tmp_path,
                transport_url=broker_vhost,
                hosts={HOST: {"n1": NODE}},
                options={"database": {"connection": database_url}},
                name=name,
            )
            stack.callback(worker.close)
            worker.start()
            worker.wait_ready()
            return worker

        yield make


def ask(connection: raw.RawConnection, key: str, body: bytes, msg_id: str) -> dict[str, Any]:
    connection.publish(key, body)
    return connection.reply(msg_id)


def abort_of_nothing(connection: raw.RawConnection) -> tuple[str, bytes, str]:
    """(instance, body, message id) of an abort for a claim that is not there yet."""
    instance = str(uuid.uuid4())
    request = connection.request("abort_resource_claim", {"claim_id": instance, "host": HOST}, call=True)
    return instance, raw.packed(request), request["_msg_id"]


def begin(connection: raw.RawConnection, instance: str) -> None:
    request = connection.request("begin_resource_claim", {"instance": small(instance, "n1")}, call=True)
    assert ask(connection, HOST_TOPIC, raw.packed(request), request["_msg_id"])["result"]["state"] == "begun"


def claims(connection: raw.RawConnection) -> list[str]:
    request = connection.request("list_claims", {}, call=True)
    listed = ask(connection, HOST_TOPIC, raw.packed(request), request["_msg_id"])["result"]
    return sorted(claim["instance_uuid"] for claim in listed)


def wait_acknowledged(rabbitmq: RabbitMQServer, url: str) -> None:
    """Wait until the broker holds no message of the host any more."""

    def empty() -> bool:
        listed = rabbitmq.ctl("list_queues", "-p", url.rpartition("/")[2], "name", "messages")
        return [HOST_TOPIC, "0"] in [line.split() for line in listed.splitlines()]

    wait_until(empty, "everything acknowledged")


def test_a_copy_from_before_a_crash_has_no_effect(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    worker = make_worker("first")
    with raw.connect(broker_vhost) as connection:
        instance, body, msg_id = abort_of_nothing(connection)
        first = ask(connection, HOST_TOPIC, body, msg_id)
        wait_acknowledged(rabbitmq, broker_vhost)
        worker.kill()
        make_worker("second")
        begin(connection, instance)
        again = ask(connection, HOST_TOPIC, body, msg_id)
        assert (again["result"], again["failure"]) == (first["result"], first["failure"])
        assert claims(connection) == [instance]


def test_a_copy_that_reaches_another_worker_has_no_effect(make_worker: MakeWorker, broker_vhost: str) -> None:
    """On the shared topic the broker gives messages to both workers in turn."""
    make_worker("first")
    make_worker("second")
    with raw.connect(broker_vhost) as connection:
        sent = [abort_of_nothing(connection) for _ in range(2)]
        first = [ask(connection, "tracker", body, msg_id) for _, body, msg_id in sent]
        for instance, _, _ in sent:
            begin(connection, instance)
        for (_, body, msg_id), answered in zip(sent, first, strict=True):
            for _ in range(2):
                again = ask(connection, "tracker", body, msg_id)
                assert (again["result"], again["failure"]) == (answered["result"], answered["failure"])
        assert claims(connection) == sorted(instance for instance, _, _ in sent)
