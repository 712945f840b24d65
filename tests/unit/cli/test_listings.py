# SPDX-License-Identifier: Apache-2.0
"""The subcommands that read the store: nodes, claims, usage."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.builders import begin, instance_dict, inventory, update, uuid
from tests.support.store import Writer, register, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.domain.commands import ReportNode
from tracker_worker.domain.views import each_claim_view, node_view, usage_view
from tracker_worker.store.sql import engines
from tracker_worker.store.sql.store import SQLStore

LISTINGS = [
    ("node", "list"),
    ("node", "show", "node-1"),
    ("claim", "list"),
    ("instance", "list"),
    ("usage",),
    ("outbox", "status"),
]
PROJECT = instance_dict()["project_id"]


def test_nodes_are_listed_as_the_rpc_api_shows_them(cli: Cli, ledger: Writer) -> None:
    assert cli.json("node", "list") == [node_view(ledger["node-1"]), node_view(ledger["node-2"])]


def test_a_table_of_nodes_has_one_line_per_node(cli: Cli, ledger: Writer) -> None:
    _, _, first, second = cli.succeed("node", "list").splitlines()
    assert first.split()[:9] == ["host-1", "node-1", "open", "2/32", "4608/131072", "50/2000", "1", "2", "2"]
    assert second.split()[:4] == ["host-1", "node-2", "open", "4/32"]


def test_a_node_of_which_nothing_is_known_has_no_totals(cli: Cli, store: SQLStore) -> None:
    store.create_node(register(store), "node-1")
    assert cli.succeed("node", "list").splitlines()[2].split()[2:5] == ["unknown", "0/-", "0/-"]


def test_one_node_is_shown_in_full(cli: Cli, ledger: Writer) -> None:
    assert cli.json("node", "show", "node-2") == node_view(ledger["node-2"])
    lines = [line.split() for line in cli.succeed("node", "show", "node-2", "--host", "host-1").splitlines()]
    assert ["memory_mb_used", "8704"] in lines
    assert ["stats.num_instances", "2"] in lines


def test_a_node_of_several_hosts_needs_its_host(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    settle(store, host="host-2", nodes=1)
    assert cli.refuse("node", "show", "node-1").endswith("with --host: host-1, host-2")
    assert cli.json("node", "show", "node-1", "--host", "host-2")["host"] == "host-2"
    assert [view["host"] for view in cli.json("node", "list", "--host", "host-2")] == ["host-2"]


def test_claims_are_listed_oldest_first(cli: Cli, ledger: Writer) -> None:
    assert cli.json("claim", "list") == list(each_claim_view(ledger.host))
    assert [view["instance_uuid"] for view in cli.json("claim", "list", "--node", "node-2")] == [uuid(2), uuid(3)]


def test_a_table_of_claims_is_not_folded_without_a_terminal(cli: Cli, ledger: Writer) -> None:
    lines = cli.succeed("claim", "list", "--host", "host-1").splitlines()[2:]
    claims = [view["claim_id"] for view in cli.json("claim", "list")]
    assert [line.split()[:2] for line in lines] == [[claim, uuid(n)] for n, claim in enumerate(claims, start=1)]
    assert lines[0].split()[4:] == ["2", "4096", "50", "2026-01-15T12:00:00Z", "2026-01-15T12:10:00Z", "unlimited"]


def test_usage_is_summed_by_project(cli: Cli, ledger: Writer) -> None:
    ledger.put(begin(4, node="node-1", project_id=None)).commit()
    assert cli.json("usage") == usage_view(ledger.host)
    assert cli.json("usage", "--project", PROJECT) == usage_view(ledger.host, PROJECT)
    assert cli.json("usage", "--project", "nobody") == {}
    assert [line.split()[0] for line in cli.succeed("usage").splitlines()[2:]] == ["(none)", PROJECT]


def test_custom_classes_are_the_last_column(cli: Cli, ledger: Writer) -> None:
    declared = inventory(resources={"VGPU": {"total": 4, "reserved": 1}, "FPGA": 2})
    ledger.put(ReportNode(node="node-1", inventory=declared))
    ledger.put(begin(4, node="node-1", project_id="p", resources={"VGPU": 2})).commit()
    node = cli.succeed("node", "list").splitlines()[2]
    assert node.split()[-2:] == ["FPGA=0/2", "VGPU=3/4"]
    for listing in ("claim", "instance"):
        [line] = [line for line in cli.succeed(listing, "list").splitlines() if uuid(4) in line]
        assert line.split()[-1] == "VGPU=2"
    assert cli.succeed("usage", "--project", "p").splitlines()[2].split() == ["p", "1", "2", "4096", "50", "VGPU=2"]
    shown = [line.split() for line in cli.succeed("node", "show", "node-1").splitlines()]
    assert ["resources.VGPU.capacity", "3"] in shown
    assert ["VGPU", "2"] in [line.split() for line in cli.succeed("instance", "show", uuid(4)).splitlines()]


def test_an_empty_listing_is_a_sentence_or_an_empty_document(cli: Cli, store: SQLStore) -> None:
    assert cli.succeed("node", "list") == "There are no nodes.\n"
    assert cli.succeed("claim", "list") == "There are no claims.\n"
    assert (cli.json("node", "list"), cli.json("claim", "list"), cli.json("usage")) == ([], [], {})


@pytest.mark.parametrize(
    "arguments", [("node", "list", "--host", "x"), ("claim", "list", "--host", "x"), ("usage", "--host", "x")]
)
def test_an_unknown_host_is_an_error(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    assert cli.refuse(*arguments) == "the database has no host x"


@pytest.mark.parametrize("arguments", [("node", "show", "x"), ("claim", "list", "--node", "x")])
def test_an_unknown_node_is_an_error(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    assert cli.refuse(*arguments) == "the database has no node x"
    assert cli.refuse(*arguments, "--host", "host-1") == "host host-1 has no node x"


def test_control_characters_in_names_are_escaped(cli: Cli, ledger: Writer) -> None:
    ledger.put(begin(4, node="node-1", project_id="\x1b[2J[bold]x")).commit()
    assert "\\x1b[2J[bold]x " in cli.succeed("usage")


# --- with a worker or without -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", LISTINGS)
def test_a_listing_does_not_create_a_database(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli.refuse(*arguments).startswith(f"there is no database {cli.database}: ")
    assert not cli.state.exists()


@pytest.mark.parametrize("arguments", LISTINGS)
def test_a_listing_does_not_wait_for_a_writer(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    engine = engines.create_engine(f"sqlite:///{cli.database}")
    with engine.connect().execution_options(tracker_writes=True) as writing, writing.begin():
        writing.execute(sa.text("UPDATE nodes SET generation = generation + 1"))
        cli.succeed(*arguments)
    engine.dispose()


@pytest.mark.parametrize("arguments", LISTINGS)
def test_a_listing_does_not_change_the_database_of_a_stopped_worker(
    cli: Cli, ledger: Writer, store: SQLStore, arguments: tuple[str, ...]
) -> None:
    store.stop()
    before = cli.database.read_bytes()
    cli.succeed(*arguments)
    assert [path.name for path in cli.state.iterdir()] == ["tracker.sqlite"]
    assert cli.database.read_bytes() == before


def test_a_released_instance_is_not_listed(cli: Cli, ledger: Writer) -> None:
    ledger.put(update(1, node="node-1", vm_state="deleted")).commit()
    assert uuid(1) not in cli.succeed("claim", "list")


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty: run 'tracker-worker db upgrade'"), (b"x" * 4096, "not a database")]
)
def test_a_file_that_is_not_a_database_is_an_error(cli: Cli, content: bytes, says: str) -> None:
    cli.state.mkdir()
    cli.database.write_bytes(content)
    assert says in cli.refuse("node", "list")
    assert cli.database.read_bytes() == content


def test_a_listing_does_not_create_the_schema(cli: Cli) -> None:
    cli.state.mkdir()
    with sqlite3.connect(cli.database) as connection:
        connection.execute("CREATE TABLE letters (body TEXT)")
    connection.close()
    assert cli.refuse("node", "list").startswith("the database schema is missing, ")
    with sqlite3.connect(cli.database) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("letters",)]
    connection.close()


def test_a_path_with_unusual_characters_is_used_unchanged(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a #b" / "ledger%20.sqlite"
    path.parent.mkdir()
    cli.configure(f"[database]\nconnection = {sa.URL.create('sqlite', database=str(path))}\n")
    assert cli.refuse("node", "list").startswith(f"there is no database {path}: ")
    cli.succeed("db", "upgrade")
    assert path.is_file()
    assert cli.json("node", "list") == []


def test_an_unreachable_database_is_an_error_of_one_sentence_without_the_password(cli: Cli) -> None:
    cli.configure("[database]\nconnection = postgresql+psycopg://tracker:s3cret@127.0.0.1:1/ledger\n")
    sentence = cli.refuse("node", "list")
    assert "cannot be used" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize("arguments", [*LISTINGS, ("db", "check")])
def test_a_listing_does_not_import_oslo_messaging(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    with cli.configuration.open("a") as configuration:
        configuration.write("hosts = host-1\n")
    program = (
        "import sys; from tracker_worker.cli.main import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit({'oslo_messaging', 'oslo_log.log', 'kombu', 'amqp'} & set(sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"--config-file={cli.configuration}", *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
