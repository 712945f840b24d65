# SPDX-License-Identifier: Apache-2.0
"""A database is copied under load and restored; a consumer of notifications follows into the new history."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.functional.test_history import HOSTS, N1, Bill, described, loads, wait_for_last
from tests.servers.binaries import find_postgresql
from tests.support import stock
from tests.support.migrated import migrated
from tests.support.worker_process import WorkerProcess
from tracker_worker.store.sql.engines import create_engine


def claimed(operator: Operator) -> set[str]:
    return {claim["instance_uuid"] for claim in operator.json("claim", "list")}


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    process = make_worker(hosts=HOSTS)
    process.start()
    process.wait_ready()
    return process


def test_a_copy_that_was_made_under_load_is_restored_and_billing_knows_what_never_happened(
    worker: WorkerProcess, client: stock.Client, listener: stock.Listener, tmp_path: Path
) -> None:
    operator = Operator(worker)
    file = tmp_path / "copy.sqlite"
    with loads(client) as working:
        working[0].wait(20)
        told_before = {uuid for load in working for uuid in load.told}
        done = operator.run("db", "backup", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        told_after = {uuid for load in working for uuid in load.told}
        for load in working:
            load.wait(20)
    all_told = {uuid for load in working for uuid in load.told}

    assert re.search(
        rf"another process has the database .* open \(1 worker: .*:{worker.pid()}[^)]*\)",
        operator.refuse("db", "restore", str(file)),
    )
    assert claimed(operator) == all_told
    assert worker.terminate() == 0
    done = operator.run("db", "restore", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    new = done.stdout.strip()
    restored = claimed(operator)
    assert restored < all_told
    assert told_before <= restored
    assert len(restored - told_after) <= len(HOSTS)  # each load waits for one answer

    worker.start()
    worker.wait_ready()
    assert " ERROR " not in worker.log()
    begun = client.call(HOST, "begin_resource_claim", instance=described(9_999))
    view = client.call(HOST, "get_node", node=N1)
    assert view["ledger_id"] == new
    bill = Bill(wait_for_last(listener, HOST, N1, view["sequence"], new))
    assert bill.charged(new) == {claim["instance_uuid"] for claim in client.call(HOST, "list_claims")}
    assert begun["instance_uuid"] in bill.charged(new)
    first = bill.ledgers[new][min(bill.ledgers[new])]
    assert (first.event_type, first.payload["previous_sequence"]) == ("tracker.node.updated", first.sequence - 1)
    assert max(bill.ledgers[first.payload["previous_ledger_id"]]) > first.sequence
    assert worker.terminate() == 0


def test_a_worker_that_is_stopped_in_its_tracks_still_has_the_database_open(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    operator = Operator(worker)
    file = str(tmp_path / "copy.sqlite")
    assert operator.run("db", "backup", file).returncode == 0
    worker.signal(signal.SIGSTOP)
    try:
        assert "stop the workers first" in operator.refuse("db", "restore", file)
    finally:
        worker.signal(signal.SIGCONT)
    worker.kill()  # its leases last for up to 15 s; its locks are gone
    assert operator.run("db", "restore", file).returncode == 0


def test_the_commands_that_are_named_for_postgresql_copy_and_restore_a_database(
    make_worker: MakeWorker, postgresql_url: str, tmp_path: Path
) -> None:
    directory = find_postgresql()
    assert directory is not None
    worker = make_worker(hosts=HOSTS, options={"database": {"connection": migrated(postgresql_url)}})
    operator = Operator(worker)
    (before,) = operator.json("db", "history")
    password = sa.make_url(postgresql_url).password
    assert password is not None
    environment = {**os.environ, "PGPASSWORD": password, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}

    def type_in(sentence: str, begin: str, end: str | None = None) -> None:
        command = sentence[sentence.index(begin) :].partition(end)[0] if end else sentence[sentence.index(begin) :]
        subprocess.run(["bash", "-euc", command], env=environment, cwd=tmp_path, check=True, timeout=60)

    said = operator.refuse("db", "backup", "copy.dump")
    assert password not in said
    type_in(said, "(umask")
    assert (tmp_path / "copy.dump").stat().st_mode & 0o777 == 0o600

    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM histories"))
    engine.dispose()
    said = operator.refuse("db", "restore", "copy.dump")
    assert password not in said
    type_in(said, "pg_restore", " && ")
    assert operator.json("db", "history") == [before]
    assert operator.run("db", "upgrade").returncode == 0
    assert operator.run("db", "new-history", "--reason", "restored").returncode == 0
    assert operator.json("db", "history")[-1]["predecessor"] == before["ledger_id"]
