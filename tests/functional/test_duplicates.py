# SPDX-License-Identifier: Apache-2.0
"""Copies of a message, at the same time or later, after a restart and at another worker: one effect and one answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC
from tests.invariants.collect import opened, wait_relayed
from tests.invariants.listening import Listener, listener
from tests.support import raw
from tests.support.builders import instance_dict, sized
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, WorkerProcess

COPIES = 8
MakeWorker = Callable[[str], WorkerProcess]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str, database_url: str) -> Iterator[MakeWorker]:
    """Makes ready workers by name, one after the other."""
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


def answers(raw_connection: raw.RawConnection, *requests: dict[str, Any], copies: int = 1) -> list[dict[str, Any]]:
    """Send ``copies`` copies of each request in turn; return the answer to each request, which all its copies must get."""
    for _ in range(copies):
        for request in requests:
            raw_connection.publish(HOST_TOPIC, raw.packed(request))
    told: dict[str, list[dict[str, Any]]] = {request["_msg_id"]: [] for request in requests}
    for _ in range(copies * len(requests)):
        reply = raw.unpacked(raw_connection.take(raw_connection.reply_queue).body)
        told[reply["_msg_id"]].append({name: reply[name] for name in ("result", "failure")})
    for replies in told.values():
        assert len(replies) == copies
        assert replies == replies[:1] * copies
    return [replies[0] for replies in told.values()]


def told_by(listening: Listener) -> list[str]:
    """The node's event types by sequence. A notification may have arrived twice, and two queues deliver notifications."""
    return [kind for _, kind in sorted({(one.sequence, one.event_type[8:]) for one in listening.heard})]


@pytest.mark.behaviour("acknowledge-after-commit")
def test_copies_of_calls_have_one_effect_and_one_answer_at_any_time_and_place(
    make_worker: MakeWorker, broker_vhost: str, database_url: str
) -> None:
    first = make_worker("first")
    with listener(broker_vhost) as listening, raw.connect(broker_vhost) as raw_connection:

        def begin(number: int, **arguments: Any) -> dict[str, Any]:
            instance = instance_dict(number, **sized(vcpus=1, memory_mb=100, disk_gb=1))
            return raw_connection.request("begin_resource_claim", {"instance": instance, **arguments}, call=True)

        def ask(method: str, **arguments: Any) -> dict[str, Any]:
            return raw_connection.request(method, arguments, call=True)

        uuid = instance_dict(1)["uuid"]
        requests = [
            begin(1),
            begin(2, limits={"vcpu": 1}),  # refused
            ask("update_usage", instance={"uuid": uuid, "display_name": "a"}),
            ask("update_usage", instance={"uuid": uuid, "display_name": "b"}),
            ask("finish_resource_claim", claim_id=uuid),
            begin(3),
            ask("abort_resource_claim", claim_id=instance_dict(3)["uuid"]),
            ask("abort_resource_claim", claim_id="unknown"),
        ]
        told = answers(raw_connection, *requests, copies=COPIES)
        assert [reply["failure"] is None for reply in told] == [True, False, True, True, True, True, True, True]
        assert json.loads(told[1]["failure"])["class"] == "ComputeResourcesUnavailable"
        wait_relayed(database_url, listening)

        assert answers(raw_connection, *requests) == told
        assert first.terminate() == 0
        second = make_worker("second")
        assert answers(raw_connection, *requests) == told
        third = make_worker("third")
        second.kill()
        # The reverse order shows that the order of the copies decides nothing.
        assert answers(raw_connection, *reversed(requests)) == told[::-1]

        wait_relayed(database_url, listening)
        assert told_by(listening) == [
            "node.updated",
            "claim.begun",
            "claim.rejected",
            "usage.updated",
            "usage.updated",
            "claim.finished",
            "claim.begun",
            "claim.aborted",
        ]
        assert third.terminate() == 0


@pytest.mark.behaviour("acknowledge-after-commit")
def test_copies_of_casts_have_one_effect_even_after_the_instance_is_deleted(
    make_worker: MakeWorker, broker_vhost: str, database_url: str
) -> None:
    first = make_worker("first")
    with listener(broker_vhost) as listening, raw.connect(broker_vhost) as raw_connection:

        def renamed(name: str) -> bytes:
            instance = {"uuid": instance_dict()["uuid"], "display_name": name}
            return raw.packed(raw_connection.request("update_usage", {"instance": instance}))

        begin = raw.packed(raw_connection.request("begin_resource_claim", {"instance": instance_dict()}))
        released = {"uuid": instance_dict()["uuid"], "vm_state": "deleted"}
        casts = [
            begin,
            renamed("a"),
            renamed("b"),
            raw.packed(raw_connection.request("update_usage", {"instance": released})),
        ]

        def send(copies: int) -> None:
            for _ in range(copies):
                for cast in casts:
                    raw_connection.publish(HOST_TOPIC, cast)
            # This call is after the casts in the same queue.
            [view] = answers(raw_connection, raw_connection.request("get_node", {}, call=True))
            assert (view["result"]["sequence"], view["result"]["running_vms"]) == (5, 0)

        send(COPIES)
        wait_relayed(database_url, listening)
        first.kill()
        second = make_worker("second")
        # The deleted instance gets no second claim.
        send(COPIES)

        wait_relayed(database_url, listening)
        assert told_by(listening) == [
            "node.updated",
            "claim.begun",
            "usage.updated",
            "usage.updated",
            "usage.released",
        ]
        assert raw_connection.count(raw.DEAD_LETTERS) == 0
        assert second.terminate() == 0
        with opened(database_url) as store:
            ids = [raw.unpacked(cast)["_unique_id"] for cast in casts]
            assert set(store.answered(ids)) == set(ids)
