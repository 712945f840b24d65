# SPDX-License-Identifier: Apache-2.0
"""A database of an earlier commit is taken over, with its open claims and what billing has not heard yet."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.worker_process import PROGRAM, WorkerProcess
from tests.upgrades.conftest import HOST, MakeWorker

N1 = "n1"
_AS_BEFORE = ("vcpus_used", "memory_mb_used", "local_gb_used", "running_vms")


@pytest.fixture(params=["sqlite", "postgresql"])
def options(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    if request.param == "sqlite":
        return {}
    return {"database": {"connection": request.getfixturevalue("postgresql_url")}}


def upgrade(program: Path, worker: WorkerProcess) -> None:
    """Create or upgrade the schema. SQLite does not need it, and takes it."""
    worker.database.parent.mkdir(exist_ok=True)
    command = [program, f"--config-file={worker.configuration}", "db", "upgrade"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_database_is_taken_over_with_its_claims_and_its_numbers(
    earlier: Path, make_worker: MakeWorker, broker_vhost: str, options: dict[str, dict[str, Any]]
) -> None:
    before = make_worker(program=earlier / "tracker-worker", options=options)
    upgrade(earlier / "tracker-worker", before)
    before.start()
    before.wait_for_log(" ready: ")
    with stock.client(broker_vhost) as client, stock.listener(broker_vhost) as listener:
        for number in range(1, 6):
            client.call(HOST, "begin_resource_claim", instance=instance_dict(number, **sized(memory_mb=1024)))
        client.call(HOST, "finish_resource_claim", claim_id=uuid(1))
        client.call(HOST, "abort_resource_claim", claim_id=uuid(2))
        old_view = client.call(HOST, "get_node", node=N1)
        old_claims = client.call(HOST, "list_claims")
        old_usage = client.call(HOST, "get_usage")
        before.kill()

        after = make_worker(options=options)
        if options:
            assert after.run() == 1  # the operator upgrades PostgreSQL
            (sentence,) = after.plain_lines()
            assert "run 'tracker-worker db upgrade'" in sentence
        upgrade(PROGRAM, after)
        after.start()
        after.wait_for_log(" ready: ")
        view = client.call(HOST, "get_node", node=N1)
        assert {name: view[name] for name in _AS_BEFORE} == {name: old_view[name] for name in _AS_BEFORE}
        assert client.call(HOST, "get_usage") == old_usage
        claims = client.call(HOST, "list_claims")
        assert [claim["instance_uuid"] for claim in claims] == [claim["instance_uuid"] for claim in old_claims]
        assert [claim["expires_at"] for claim in claims] == [claim["expires_at"] for claim in old_claims]

        # A scheduler goes on: it ends a claim by the id that the earlier worker gave it, which was the instance's uuid.
        assert client.call(HOST, "finish_resource_claim", claim_id=uuid(3))["state"] == "finished"
        assert client.call(HOST, "abort_resource_claim", claim_id=uuid(4))["state"] == "aborted"
        assert client.call(HOST, "update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})["tracked"]
        last = client.call(HOST, "get_node", node=N1)["sequence"]
        heard = listener.wait_for(HOST, N1, last)
    assert last > old_view["sequence"]
    assert len({one.message_id for one in heard}) == len({one.sequence for one in heard}) == last
    assert after.terminate() == 0

    # There is no way back but a backup.
    again = make_worker(program=earlier / "tracker-worker", options=options)
    assert again.run() == 1
    (sentence,) = again.plain_lines()
    assert "schema is at revision" in sentence
