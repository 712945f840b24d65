# SPDX-License-Identifier: Apache-2.0
"""What is large, or what the broker does not take, costs memory within bounds and holds up nothing else."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.functional.conftest import MakeWorker
from tests.servers import RabbitMQServer
from tests.support import raw
from tests.support.builders import instance_dict, sized
from tests.support.callers import connected, small
from tests.support.deadline import wait_until
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, Nodes

HOST, OTHER = "h1", "h2"
HOSTS: dict[str, Nodes] = {HOST: {"n1": NODE}, OTHER: {"n2": NODE}}
MSGPACK = {"content_type": "application/x-msgpack", "content_encoding": "binary"}
CASTS = 150
MOST_MEMORY = 1 << 30
BROKER_LIMIT = 1 << 20


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


def of_letters() -> dict[str, Any]:
    """A megabyte that is within the limits of each field."""
    return {"metadata": {"k": "x" * 500_000}, "image_meta": {"k": "y" * 500_000}}


def of_control_characters() -> dict[str, Any]:
    """JSON writes each of these characters in six bytes, and a notification, which is JSON within JSON, in seven."""
    return {"metadata": {"k": "\1" * 1_000_000}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fields", [of_letters, of_control_characters], ids=lambda fields: fields.__name__)
def test_many_casts_of_a_megabyte_are_done_or_parked_within_a_gigabyte(
    make_worker: MakeWorker, broker_vhost: str, database_url: str, fields: Callable[[], dict[str, Any]]
) -> None:
    worker = make_worker(
        hosts=HOSTS,
        options={
            "database": {"connection": database_url},
            "bus": {"queue_type": "classic", "prefetch": 512, "max_body_bytes": 2_000_000, "max_field_bytes": 1048576},
        },
    )
    worker.start()
    worker.wait_ready()
    worker.terminate()
    with raw.connect(broker_vhost) as connection:
        for _ in range(CASTS):
            instance = instance_dict(
                uuid=str(uuid.uuid4()), node="n1", **sized(vcpus=1, memory_mb=1, disk_gb=1), **fields()
            )
            message = connection.request("begin_resource_claim", {"instance": instance})
            connection.publish(f"tracker.{HOST}", msgspec.msgpack.encode(message), **MSGPACK)
        wait_until(lambda: connection.count(f"tracker.{HOST}") == CASTS, "the casts wait")
    worker.start()
    with connected(broker_vhost) as callers, raw.connect(broker_vhost) as connection:
        # Another host of the worker is answered although the batch is heavy; a start takes some seconds.
        assert callers.answer(OTHER, "get_node", 30).failure is None

        def done() -> int:
            called = callers.answer(HOST, "get_node", 30)
            charged = called.result["running_vms"] if called.result else 0
            parked = connection.count(raw.DEAD_LETTERS)
            assert worker.peak_memory() < MOST_MEMORY
            return charged + parked

        wait_until(lambda: done() == CASTS, "every cast charged or parked", seconds=150)
        if fields is of_letters:
            assert connection.count(raw.DEAD_LETTERS) == 0
    assert worker.peak_memory() < MOST_MEMORY
    assert worker.is_alive()


@pytest.fixture
def small_broker(rabbitmq: RabbitMQServer) -> Iterator[RabbitMQServer]:
    """The broker takes no message over ``BROKER_LIMIT`` bytes during the test."""
    rabbitmq.ensure_running()
    before = int(rabbitmq.ctl("eval", "rabbit_misc:get_env(rabbit, max_message_size, 134217728).").strip())
    _limit(rabbitmq, BROKER_LIMIT)
    try:
        yield rabbitmq
    finally:
        _limit(rabbitmq, before)


def _limit(rabbitmq: RabbitMQServer, size: int) -> None:
    """Each connection reads the limit from the one place or the other, depending on the release."""
    rabbitmq.ctl(
        "eval",
        f"application:set_env(rabbit, max_message_size, {size}), "
        f"persistent_term:put({{rabbit, max_message_size}}, {size}).",
    )


@pytest.mark.timeout(300)
def test_an_answer_that_the_broker_does_not_take_becomes_an_error_and_holds_up_nothing(
    small_broker: RabbitMQServer, make_worker: MakeWorker, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS, options={"bus": {"queue_type": "classic"}})
    worker.start()
    worker.wait_ready()
    with connected(broker_vhost) as callers, connected(broker_vhost) as others:
        callers.fill(HOST, "n1", 6000)
        asked = callers.call(HOST, "list_claims", {}, seconds=30)
        end = time.monotonic() + 10
        slowest = 0.0
        while time.monotonic() < end:
            called = others.answer(OTHER, "get_node", 10)
            assert called.seconds is not None
            slowest = max(slowest, called.seconds)
            callers.wait(0.1)
        claim = others.answer(HOST, "begin_resource_claim", 10, instance=small("later", "n1"))
    assert claim.failure is None
    assert slowest < 3
    assert asked.failure == "AnswerTooLarge"
    assert asked.kwargs["method"] == "list_claims"
    assert asked.kwargs["bytes"] > asked.kwargs["limit"]
    assert asked.kwargs["limit"] <= BROKER_LIMIT
    assert json.dumps(asked.kwargs["how"]).find("node") >= 0
    # The channel alone is opened again.
    assert worker.log().count("no connection to") == 0
