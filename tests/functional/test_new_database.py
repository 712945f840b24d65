# SPDX-License-Identifier: Apache-2.0
"""A database that is lost and made anew is another ledger: billing takes none of its events for a copy of an earlier one."""

from __future__ import annotations

import subprocess
from uuid import UUID

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.support import stock
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE

KINDS = ["node.updated", "claim.begun", "claim.finished"]


def build(client: stock.Client, number: int) -> None:
    claim = client.call(HOST, "begin_resource_claim", instance=instance_dict(number))
    client.call(HOST, "finish_resource_claim", claim_id=claim["claim_id"])


def test_the_events_of_a_new_database_have_ids_and_a_ledger_of_their_own(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener
) -> None:
    worker = make_worker(hosts={HOST: {"n1": NODE}})
    worker.start()
    worker.wait_ready()
    build(client, 1)
    before = listener.wait_for(HOST, "n1", len(KINDS))
    assert worker.terminate() == 0
    for file in worker.database.parent.glob("tracker.sqlite*"):
        file.unlink()

    worker.start()  # the machine was installed anew
    worker.wait_for_log(f"host adopt {HOST}")
    adopted: subprocess.CompletedProcess[str] = Operator(worker).run("host", "adopt", HOST)
    assert adopted.returncode == 0, adopted.stderr
    worker.wait_ready()
    build(client, 2)
    wait_until(lambda: len(listener.heard()) == 2 * len(KINDS), "the events of the new database")
    after = listener.heard()[len(KINDS) :]

    for heard, number in ((before, 1), (after, 2)):
        assert [one.event_type.removeprefix("tracker.") for one in heard] == KINDS
        assert [one.sequence for one in heard] == [1, 2, 3]
        assert {one.payload.get("instance_id", uuid(number)) for one in heard} == {uuid(number)}
    assert len({one.message_id for one in listener.heard()}) == 2 * len(KINDS)
    (lost,), (new,) = ({one.payload["ledger_id"] for one in heard} for heard in (before, after))
    assert lost != new
    assert {UUID(ledger).version for ledger in (lost, new)} == {7}
    assert client.call(HOST, "get_node")["ledger_id"] == new
