# SPDX-License-Identifier: Apache-2.0
"""One outbox, three dialects, a real broker: what arrives, what a restart repeats, and what one topic cannot take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq
from cloudevents.core.formats.json import JSONFormat

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.functional.test_refused_messages import DEFAULT_LIMIT, LIMIT, broker_option
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import wait_until
from tests.support.doc_pages import DOC, blocks
from tests.support.faulty import FaultyWorker
from tests.support.raw import RawConnection, unpacked
from tests.support.worker_process import NODE, WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

OPTIONS = {
    "notifications": {"topics": "plain", "compute_topics": "compute", "cloudevents_topics": "events"},
    "tracker": {"audit_interval_seconds": 1, "claim_timeout_seconds": 600},
}
HOSTS = {HOST: {"n1": NODE}}
DELETE = ["delete.start", "delete.end"]


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    """A worker with a topic of each dialect."""
    made = make_worker(hosts=HOSTS, options=OPTIONS)
    made.start()
    made.wait_ready()
    return made


@pytest.fixture
def broker(broker_vhost: str) -> Iterator[RawConnection]:
    with raw.connect(broker_vhost) as connected:
        yield connected


def drain(broker: RawConnection, queue: str, count: int) -> list[Any]:
    """Exactly so many messages, which are all that the queue gets."""
    taken = [broker.take(queue) for _ in range(count)]
    assert broker.count(queue) == 0
    return taken


def settled(worker: WorkerProcess) -> dict[str, tuple[int, int]]:
    """Topic -> the last number of the node, and the last one that is published."""
    return {row["topic"]: (row["sequence"], row["cursor"]) for row in Operator(worker).json("outbox", "status")}


def wait_published(worker: WorkerProcess, *topics: str) -> int:
    """Wait until the topics have everything, and return how many that is."""

    def done() -> bool:
        return all(sequence == cursor for topic, (sequence, cursor) in settled(worker).items() if topic in topics)

    wait_until(done, lambda: f"published on {topics}: {settled(worker)}")
    return settled(worker)[topics[0]][0]


def begin(client: stock.Client, number: int, **arguments: Any) -> str:
    instance = instance_dict(number, node="n1", **arguments.pop("fields", {}))
    begun: Mapping[str, Any] = client.call(HOST, "begin_resource_claim", instance=instance, limits=None, **arguments)
    return str(begun["claim_id"])


def computed(messages: list[Any]) -> list[dict[str, Any]]:
    assert {message.properties["content_type"] for message in messages} == {"application/json"}
    return [unpacked(message.body) for message in messages]


def names(messages: list[dict[str, Any]]) -> list[str]:
    return [message["event_type"].removeprefix("compute.instance.") for message in messages]


def test_each_topic_has_the_same_events_in_its_dialect(
    worker: WorkerProcess, client: stock.Client, broker: RawConnection
) -> None:
    modern = client.prepare(HOST, version="1.1")
    first = begin(client, 1, fields={"display_name": 'a "quoted" näme'})
    client.call(HOST, "finish_resource_claim", claim_id=first)
    client.call(HOST, "update_usage", instance={"uuid": uuid(1), "vm_state": "active", "task_state": None})
    client.call(HOST, "update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})
    refused = begin(client, 2)
    client.call(HOST, "abort_resource_claim", claim_id=refused)
    instance = instance_dict(3, node="n1")
    kept = modern.call({}, "begin_resource_claim", instance=instance, limits=None, timeout=1, on_expiry="keep")

    def expired() -> bool:
        [claim] = [claim for claim in client.call(HOST, "list_claims") if claim["claim_id"] == kept["claim_id"]] or [{}]
        return claim.get("state") != "begun"

    wait_until(expired, "the claim expires")
    client.call(HOST, "abort_resource_claim", claim_id=kept["claim_id"])
    sequence = wait_published(worker, "plain", "compute", "events")

    plain = [unpacked(message.body) for message in drain(broker, "plain.info", sequence)]
    assert [message["payload"]["sequence"] for message in plain] == list(range(1, sequence + 1))
    by_id = {message["message_id"]: message for message in plain}

    compute = computed(drain(broker, "compute.info", 7))
    assert names(compute) == ["create.end", "update", *DELETE, "create.end", *DELETE]
    assert {message["publisher_id"] for message in compute} == {f"compute.{HOST}"}
    derived = {str(uuid5(UUID(row), f"compute:{index}")): row for row in by_id for index in (0, 1)}
    for message in compute:
        row = by_id[derived[message["message_id"]]]
        assert (message["payload"], message["timestamp"]) == (row["payload"], row["timestamp"])

    events = []
    for message in drain(broker, "events.info", sequence):
        content_type = message.properties["content_type"]
        assert (content_type, message.properties["content_encoding"]) == ("application/cloudevents+json", "utf-8")
        events.append(from_rabbitmq(RabbitMQMessage({}, content_type, bytes(message.body)), JSONFormat()))
    assert [event.get_id() for event in events] == [message["message_id"] for message in plain]
    assert [event.get_data() for event in events] == [message["payload"] for message in plain]
    assert [event.get_extension("sequence") for event in events] == [f"{n:020}" for n in range(1, sequence + 1)]
    with pytest.raises(Exception, match=r"compute\.warn"):
        broker.count("compute.warn")


def test_a_worker_killed_between_two_messages_of_an_event_sends_both_again(
    tmp_path: Path, broker_vhost: str, client: stock.Client, broker: RawConnection
) -> None:
    """The queue takes one message at a time, so that the broker confirms the first and refuses the second."""
    options = {**OPTIONS, "notifications": {"topics": "", "compute_topics": "compute"}}
    worker = FaultyWorker(tmp_path, transport_url=broker_vhost, hosts=HOSTS, options=options)
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    broker.channel.queue_declare("compute.info", durable=False, auto_delete=False, arguments=full)
    try:
        worker.ail("after_publish", 1)
        worker.start()
        worker.wait_ready()
        begin(client, 1)
        wait_published(worker, "compute")
        worker.arm()
        client.cast(HOST, "update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})
        assert worker.wait() == -9
        [first] = computed(drain(broker, "compute.info", 1))
        sequence, cursor = settled(worker)["compute"]
        assert first["payload"]["sequence"] == sequence == cursor + 1

        worker.heal()
        worker.start()
        worker.wait_ready()
        again = computed([broker.take("compute.info") for _ in range(2)])
        assert names(again) == DELETE
        assert again[0]["message_id"] == first["message_id"]
        assert {**again[0], "_unique_id": ""} == {**first, "_unique_id": ""}
        assert wait_published(worker, "compute") == sequence
        assert worker.terminate() == 0
        worker.start()
        worker.wait_ready()
        client.call(HOST, "get_node", node="n1")
        assert worker.terminate() == 0
        assert broker.count("compute.info") == 0
    finally:
        worker.close()


def test_what_one_topic_cannot_take_waits_there_alone_and_can_be_skipped_and_replayed(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, client: stock.Client, broker: RawConnection, broker_vhost: str
) -> None:
    """A quote has four bytes inside of an envelope and two in a CloudEvent."""
    with broker_option(rabbitmq, "max_message_size", LIMIT, DEFAULT_LIMIT):
        worker = make_worker(hosts=HOSTS, options=OPTIONS)
        worker.start()
        worker.wait_ready()
        operator = Operator(worker)
        quotes = {f"k{number}": '"' * 200 for number in range(110)}
        instance = instance_dict(1, node="n1", metadata=quotes, image_meta=quotes)
        with raw.connect(broker_vhost) as sender:  # without an envelope: the request is small enough
            sender.publish(
                f"tracker.{HOST}", json.dumps(sender.request("begin_resource_claim", {"instance": instance})).encode()
            )
        wait_until(lambda: client.call(HOST, "get_node", node="n1")["running_vms"], "the claim")
        client.call(HOST, "finish_resource_claim", claim_id=uuid(1))
        begin(client, 2)
        sequence = wait_published(worker, "events")
        begun, finished = sequence - 2, sequence - 1
        wait_until(
            lambda: waits(operator) == {"plain": begun, "compute": finished, "events": None},
            lambda: f"{waits(operator)}",
        )
        assert settled(worker)["compute"] == (sequence, finished - 1)
        drain(broker, "events.info", sequence)
        where = ("--host", HOST, "--node", "n1", "--sequence", str(finished), "--topic", "compute")
        operator.json("outbox", "skip", *where, "--yes")
        client.call(HOST, "finish_resource_claim", claim_id=uuid(2))
        assert names(computed([broker.take("compute.info")])) == ["create.end"]
        assert worker.terminate() == 0

    worker.start()
    worker.wait_ready()
    sequence = wait_published(worker, "plain", "compute", "events")
    for queue in ("plain.info", "compute.info", "events.info"):
        broker.channel.queue_purge(queue)
    span = ("--from-sequence", str(begun), "--to-sequence", str(finished))
    assert operator.json("outbox", "replay", "--host", HOST, "--node", "n1", *span)["sent"] == 2
    plain = [unpacked(message.body) for message in drain(broker, "plain.info", 2)]
    [created] = computed(drain(broker, "compute.info", 1))
    events = [json.loads(message.body) for message in drain(broker, "events.info", 2)]
    assert created["message_id"] == str(uuid5(UUID(plain[1]["message_id"]), "compute:0"))
    assert created["payload"] == plain[1]["payload"] == events[1]["data"]
    assert [event["id"] for event in events] == [message["message_id"] for message in plain]


def waits(operator: Operator) -> dict[str, int | None]:
    """Topic -> the number that cannot go out."""
    return {row["topic"]: row["refused_sequence"] for row in operator.json("outbox", "status")}


def test_the_example_of_a_consumer_of_cloudevents_reads_them(
    worker: WorkerProcess,
    client: stock.Client,
    broker: RawConnection,
    broker_vhost: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin(client, 1)
    sequence = wait_published(worker, "events")
    [example] = [block.text for block in blocks(DOC / "user" / "dialects.md", "python")]
    show: dict[str, Any] = {}
    exec(example.partition("\n\nwith ")[0], show)  # all but its connection
    for _ in range(sequence - 1):
        broker.take("events.info")
    broker.channel.basic_consume("events.info", callback=show["show"])
    wait_until(lambda: broker.channel.connection.drain_events(timeout=1) or True, "a message")
    assert capsys.readouterr().out.startswith(f"tracker.claim.begun {instance_dict()['project_id']} {{'VCPU': 2,")
    assert broker.count("events.info") == 0
