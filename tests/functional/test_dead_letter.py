# SPDX-License-Identifier: Apache-2.0
"""An operator lists, replays and purges dead letters, on a real queue and with a real worker."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.functional.desk import Desk
from tests.functional.test_cli import Operator
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.deployments import QUEUE_TYPES
from tests.support.raw import deep_table
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.tables import encode_texts
from tracker_worker.store.base import DeadLetterRow
from tracker_worker.store.sql.store import SQLStore

SMALL = sized(vcpus=1, memory_mb=1024, disk_gb=10)
# With fewer messages, a quorum queue may keep the order by accident.
MANY = 60


@pytest.fixture
def desk(make_worker: MakeWorker, broker_vhost: str, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A desk for host ``HOST`` with node n1, with the parameter's queue type, quorum by default."""
    queue_type = getattr(request, "param", "quorum")
    options = {"bus": {"queue_type": queue_type}, "tracker": {"audit_interval_seconds": 3600}}
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options=options)
    with raw.connect(broker_vhost) as amqp:
        yield Desk(worker, amqp)


@pytest.fixture
def box(desk: Desk, request: pytest.FixtureRequest) -> Desk:
    """A desk whose dead-letter queue exists; the worker does not run."""
    desk.declare(request.getfixturevalue("queue_type") if "queue_type" in request.fixturenames else "quorum")
    return desk


# Each of these takes a while, and quorum queues are those that can go wrong.
_EACH = [pytest.param(name, marks=() if name == "quorum" else pytest.mark.long) for name in QUEUE_TYPES]
both = pytest.mark.parametrize("desk", _EACH, indirect=True)
each_type = pytest.mark.parametrize("queue_type", _EACH)


def _begin(client: stock.Client, number: int) -> None:
    client.cast(HOST, "begin_resource_claim", instance=instance_dict(number, node="n2", **SMALL))


def _add_node(worker: WorkerProcess) -> None:
    worker.write_inventory({HOST: {"n1": NODE, "n2": NODE}})
    worker.signal(signal.SIGHUP)
    worker.wait_for_log("reloaded")
    operator = Operator(worker)
    wait_until(lambda: len(operator.json("node", "list")) == 2, "the second node")


# --- with a worker ---------------------------------------------------------------------------------------------------


@both
def test_casts_for_a_missing_node_are_replayed_in_order_once_the_node_exists(
    desk: Desk, client: stock.Client, listener: stock.Listener
) -> None:
    desk.worker.start()
    desk.worker.wait_ready()
    for number in (1, 2, 3):
        _begin(client, number)
    client.cast(HOST, "begin_resource_claim", instance={"uuid": "wrong"})
    wait_until(lambda: desk.amqp.count(raw.DEAD_LETTERS) == 4, "four dead letters")

    rows = desk.list()
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert [row["code"] for row in rows] == ["node_not_found"] * 3 + ["invalid_input"]
    assert [row["instance"] for row in rows] == [uuid(1), uuid(2), uuid(3), "wrong"]
    assert {(row["method"], row["host"], row["call"]) for row in rows} == {("begin_resource_claim", HOST, False)}
    assert {(row["exchange"], row["routing_key"]) for row in rows} == {(raw.EXCHANGE, HOST_TOPIC)}
    table = desk.operator.run("dead-letter", "list").stdout.splitlines()
    assert [line.split()[:2] for line in table[2:]] == [[str(row["number"]), row["id"]] for row in rows]
    assert "Host h1 has no node n2" in table[2]

    _add_node(desk.worker)
    desk.replay_and_die()
    listener.wait_for(HOST, "n2", 2)
    wait_until(lambda: desk.amqp.count(raw.DEAD_LETTERS) == 4, "all four are back")

    replayed = desk.json("replay", "--reason", "node_not_found")

    assert [row["id"] for row in replayed] == [row["id"] for row in rows[:3]]
    assert all(row["replayed"] and row["kept"] is None for row in replayed)
    begun = [one for one in listener.wait_for(HOST, "n2", 4) if one.event_type == "tracker.claim.begun"]
    assert [one.payload["instance_id"] for one in begun] == [uuid(1), uuid(2), uuid(3)]
    assert desk.unique_ids() == [rows[3]["unique_id"]]
    (_, n2) = client.call(HOST, "list_nodes")
    assert (n2["vcpus_used"], n2["sequence"]) == (3, 4)


def test_replaying_an_undecodable_message_warns_and_parks_it_again(desk: Desk) -> None:
    desk.worker.start()
    desk.worker.wait_ready()
    desk.amqp.publish(HOST_TOPIC, b"\xff\xfe\x00\x80")
    wait_until(lambda: desk.amqp.count(raw.DEAD_LETTERS) == 1, "a dead letter")

    shown = desk.operator.run("dead-letter", "show", "1")
    assert "00000000  ff fe 00 80 " in shown.stdout
    done = desk.operator.run("dead-letter", "replay", "1")

    assert (done.returncode, done.stderr) == (0, "")
    assert "it will be dead-lettered again, as the worker cannot read it: undecodable" in done.stdout
    wait_until(lambda: desk.amqp.count(raw.DEAD_LETTERS) == 1, "it is back")
    raw.check_parked(desk.amqp.take(raw.DEAD_LETTERS), b"\xff\xfe\x00\x80", topic=HOST_TOPIC)


# --- looking ---------------------------------------------------------------------------------------------------------


def test_a_missing_dead_letter_queue_is_listed_as_empty(desk: Desk) -> None:
    assert desk.list() == []
    assert desk.operator.run("dead-letter", "list").stdout == "There are no dead-lettered messages.\n"
    assert desk.json("replay", "--all") == []
    assert desk.json("purge", "--all", "--yes") == {"removed": 0}
    assert "there is no dead-lettered message 1" in desk.operator.refuse("dead-letter", "show", "1")


@each_type
def test_list_and_show_change_neither_the_dead_letters_nor_their_order(box: Desk, queue_type: str) -> None:
    unique_ids = box.fill(MANY)
    everything = box.list()
    assert [row["unique_id"] for row in everything] == unique_ids
    assert box.json("list", "--limit", "2") == everything[:2]
    assert box.operator.json("dead-letter", "show", "3")["unique_id"] == unique_ids[2]
    unique_ids += box.fill(1)
    done = box.operator.run("dead-letter", "list", "--limit", "1")
    assert done.stderr == f"{MANY} more are not shown.\n"

    assert [row["id"] for row in box.list()[:MANY]] == [row["id"] for row in everything]

    taken = [raw.unpacked(box.amqp.take(raw.DEAD_LETTERS).body)["_unique_id"] for _ in unique_ids]
    assert taken == unique_ids


@each_type
def test_concurrent_lists_each_show_every_dead_letter(box: Desk, queue_type: str) -> None:
    unique_ids = box.fill(MANY)
    with ThreadPoolExecutor(3) as pool:
        seen = list(pool.map(lambda _: box.unique_ids(), range(3)))
    assert seen == [unique_ids] * 3


def test_a_command_fails_while_another_command_uses_the_dead_letter_queue(box: Desk, broker_vhost: str) -> None:
    box.fill(1)
    with raw.connect(broker_vhost) as other:
        other.channel.queue_declare(f"{raw.DEAD_LETTERS}.operator", exclusive=True)
        assert "another operator's command uses the dead-letter queue" in box.operator.refuse("dead-letter", "list")
    assert len(box.list()) == 1


def test_dead_letters_are_listed_by_age_whatever_their_order_in_the_queue(box: Desk) -> None:
    ages = (20, 40, 30, 10)
    unique_ids = {age: box.fill(1, age=age)[0] for age in ages}
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 4, "all of them")
    assert box.unique_ids() == [unique_ids[age] for age in sorted(ages, reverse=True)]


def test_a_message_with_unreadable_properties_is_listed_and_can_be_removed(box: Desk) -> None:
    (unique_id,) = box.fill(1)
    box.amqp.publish_unreadable(raw.DEAD_LETTERS, b"{}", exchange="")
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 2, "both messages are in the queue")
    readable, unreadable = box.list()
    assert unreadable["problem"] == "content type application/x-unreadable-properties is not served"
    assert readable["unique_id"] == unique_id
    assert box.json("purge", unreadable["id"], "--yes") == {"removed": 1}
    assert box.unique_ids() == [unique_id]


# --- replaying -------------------------------------------------------------------------------------------------------


@each_type
def test_a_replayed_message_is_identical_to_the_original(box: Desk, queue_type: str) -> None:
    mailbox = box.mailbox("tracker.h7")
    body = b'\x00\xff{"no": request}'
    kept = {"headers": {"x-from": "a scheduler", "n": {"a": [1, True]}}, "message_id": "m-1", "priority": 4}
    added = {"CC": [raw.DEAD_LETTERS], "x-death": [{"count": 1}], "x-delivery-count": 3}
    box.put(body, to=mailbox, **{**kept, "headers": {**kept["headers"], **added}})
    # RabbitMQ has also routed the message by its CC header.
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 1, "the letter")

    assert box.json("replay", "1")[0]["replayed"] is True

    message = box.amqp.take(mailbox)
    assert message.body == body
    assert {**message.properties, "headers": message.properties["application_headers"]} == {
        **raw.JSON,
        **kept,
        "application_headers": kept["headers"],
    }
    assert box.list() == []


@each_type
def test_a_replay_sends_only_the_selected_messages_and_keeps_the_order_of_the_rest(box: Desk, queue_type: str) -> None:
    mailbox = box.mailbox("tracker.h7")
    unique_ids = box.fill(MANY, to=mailbox)
    rows = box.list()
    meant = [4, 17, 40]

    plan = box.json("replay", rows[40]["id"], "5", rows[17]["id"][:8], "--dry-run")
    assert [row["number"] for row in plan] == [5, 18, 41]
    assert box.list() == rows
    box.json("replay", rows[40]["id"], "5", rows[17]["id"][:8])
    box.json("replay", "--unique-id", unique_ids[50])

    sent = [raw.unpacked(box.amqp.take(mailbox).body)["_unique_id"] for _ in range(4)]
    assert sent == [unique_ids[index] for index in (*meant, 50)]
    left = [unique_id for index, unique_id in enumerate(unique_ids) if index not in (*meant, 50)]
    assert box.unique_ids() == left
    assert box.amqp.count(mailbox) == 0


def test_a_replay_keeps_unroutable_messages_and_reports_them(box: Desk) -> None:
    mailbox = box.mailbox("tracker.h7")
    lost = box.fill(2, to="tracker.h9")
    (nowhere,) = box.fill(1, exchange="nowhere")
    box.fill(1, to=mailbox)
    unknown = raw.packed(box.amqp.request("get_node", {}))
    box.amqp.publish(raw.DEAD_LETTERS, unknown, exchange="")
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 5, "all of them")

    done = box.operator.run("dead-letter", "replay", "--all")

    assert done.returncode == 1
    assert done.stderr == "tracker-worker: 4 of 5 messages are kept\n"
    assert done.stdout.count("kept: no queue takes openstack/tracker.h9") == 2
    assert "kept: the broker refuses it: Basic.publish: (404) NOT_FOUND - no exchange 'nowhere'" in done.stdout
    assert "kept: its headers do not say where it was first sent" in done.stdout
    assert box.amqp.count(mailbox) == 1
    assert box.unique_ids()[:3] == [*lost, nowhere]
    assert [row["replayed"] for row in box.json("replay", "--all", code=1)] == [False] * 4


def test_messages_dead_lettered_by_rabbitmq_are_replayed_and_calls_only_by_number(box: Desk) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": raw.DEAD_LETTERS}
    box.amqp.channel.queue_declare("elsewhere", durable=True, auto_delete=False, arguments=arguments)
    call = raw.packed(box.amqp.request("get_node", {}, call=True))
    cast = raw.packed(box.amqp.request("update_usage", {"instance": {"uuid": "i-1"}}))
    for body in (call, cast):
        box.amqp.publish("elsewhere", body, exchange="", expiration="1")
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 2, "both expire")

    rows = box.list()
    assert [(row["code"], row["call"]) for row in rows] == [("expired", True), ("expired", False)]
    assert rows[0]["reason"] == "dead-lettered by RabbitMQ in queue elsewhere, after 1 ms"
    first, second = box.json("replay", "--reason", "expired", code=1)

    assert "caller has given up" in first["kept"]
    assert second["replayed"]
    message = box.amqp.take("elsewhere")
    assert (message.body, message.properties) == (cast, {**raw.JSON, "application_headers": {}})
    assert box.json("replay", "1")[0]["replayed"]
    assert box.amqp.take("elsewhere").body == call


# --- removing --------------------------------------------------------------------------------------------------------


@each_type
def test_purge_removes_dead_letters_only_with_yes(box: Desk, queue_type: str) -> None:
    old = box.fill(2, age=3600)
    new = box.fill(2, code="claim_conflict")
    wait_until(lambda: box.amqp.count(raw.DEAD_LETTERS) == 4, "all of them")

    refused = box.operator.refuse("dead-letter", "purge", "--older-than", "600")
    assert refused == "tracker-worker: 2 messages would be removed; say --yes to do it"
    assert box.unique_ids() == [*old, *new]
    assert box.json("purge", "--older-than", "600", "--reason", "claim_conflict", "--yes") == {"removed": 0}
    assert box.json("purge", "--older-than", "600", "--yes") == {"removed": 2}
    assert box.unique_ids() == new

    assert "2 messages would be removed" in box.operator.refuse("dead-letter", "purge", "--all")
    assert box.operator.run("dead-letter", "purge", "--all", "--yes").stdout == "Removed 2 messages.\n"
    assert box.list() == []


# --- what the database keeps -----------------------------------------------------------------------------------------


@pytest.fixture
def archive(desk: Desk) -> Iterator[SQLStore]:
    """The store of a worker that has ended, with one dead letter that the broker did not take."""
    desk.worker.start()
    desk.worker.wait_ready()
    assert desk.worker.terminate() == 0
    store = SQLStore(f"sqlite:///{desk.worker.database}")
    store.start()
    row = DeadLetterRow(
        host=HOST,
        parked_at=int(time.time() - 3600) * 1_000_000,
        reason="invalid_input: it is so",
        exchange=raw.EXCHANGE,
        routing_key=HOST_TOPIC,
        properties=encode_properties(raw.JSON),
        headers=deep_table(2000) + encode_texts({"x-tracker-reason": "invalid_input: it is so"}),
        body=raw.packed(desk.amqp.request("get_node", {})),
    )
    store.keep_dead_letters([row])
    yield store
    store.stop()


def test_what_the_database_keeps_is_listed_shown_and_removed_beside_the_queue(desk: Desk, archive: SQLStore) -> None:
    desk.fill(1)
    kept, queued = desk.list()
    assert (kept["kept_in"], queued["kept_in"]) == ("database", "queue")
    assert (kept["code"], kept["reason"], kept["host"]) == ("invalid_input", "it is so", HOST)
    shown = desk.operator.json("dead-letter", "show", "1")
    assert shown["message"]["method"] == "get_node"
    assert desk.json("purge", kept["id"], "--yes") == {"removed": 1}
    assert [row["id"] for row in desk.list()] == [queued["id"]]
    assert archive.dead_letters(10) == []


def test_what_the_database_keeps_is_replayed_and_then_removed(desk: Desk, archive: SQLStore) -> None:
    (replayed,) = desk.json("replay", "--all")
    assert replayed["replayed"] is True
    assert archive.dead_letters(10) == []
    wait_until(lambda: desk.amqp.count(HOST_TOPIC) == 1, "the host's queue has it")


def test_purge_all_removes_from_both_places(desk: Desk, archive: SQLStore) -> None:
    desk.fill(2)
    assert desk.json("purge", "--all", "--yes") == {"removed": 3}
    assert archive.dead_letters(10) == []
    assert desk.amqp.count(raw.DEAD_LETTERS) == 0


def test_a_dead_letter_with_headers_that_cannot_be_decoded_is_listed_and_purged(box: Desk) -> None:
    own = encode_texts({"x-tracker-reason": "invalid_input: deep", "x-tracker-routing-key": HOST_TOPIC})
    box.amqp.publish_table(raw.DEAD_LETTERS, b"x", deep_table(2000) + own, exchange="")
    (row,) = wait_until(box.list, "the dead letter")
    assert (row["code"], row["reason"], row["routing_key"]) == ("invalid_input", "deep", HOST_TOPIC)
    assert box.json("purge", row["id"], "--yes") == {"removed": 1}
