# SPDX-License-Identifier: Apache-2.0
"""``node drain``, ``undrain``, ``retire``, ``rename`` and ``move``: in the database, without a worker."""

from __future__ import annotations

import getpass
import json

import pytest

from tests.support.builders import uuid
from tests.support.store import ALL, Writer, load, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.store.sql.store import SQLStore


def states(cli: Cli) -> dict[str, tuple[str, str]]:
    return {view["node"]: (view["state"], view["state_reason"]) for view in cli.json("node", "list")}


def test_a_node_is_drained_and_taken_back(cli: Cli, ledger: Writer) -> None:
    said = cli.succeed("node", "drain", "node-1", "--reason", "disk replaced")
    assert said == "Node node-1 of host host-1 is draining (disk replaced).\n"
    assert states(cli) == {"node-1": ("draining", "disk replaced"), "node-2": ("open", "")}
    row = cli.succeed("node", "list").splitlines()[2]
    assert row.split()[2] == "draining"
    (view, _) = cli.json("node", "list")
    assert row.rstrip().endswith(f"{view['state_since'][:19]}Z  disk replaced")
    assert cli.json("node", "undrain", "node-1", "--host", "host-1")["state"] == "open"


def test_only_an_empty_node_is_retired(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    sentence = cli.refuse("node", "retire", "node-2")
    assert sentence == f"node node-2 of host host-1 is charged for 2 instances: {uuid(2)}, {uuid(3)}"
    settle(store, host="host-2", nodes=1)
    assert cli.json("node", "retire", "node-1", "--host", "host-2", "--reason", "sold")["state"] == "retired"
    assert cli.json("node", "undrain", "node-1", "--host", "host-2")["state"] == "open"


def test_a_node_is_renamed_with_what_it_is_charged(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    assert cli.json("node", "rename", "node-2", "rack-2", "--host", "host-1")["running_vms"] == 2
    assert sorted(load(store).nodes["rack-2"].allocations) == [uuid(2), uuid(3)]
    assert cli.refuse("node", "rename", "rack-2", "node-1", "--host", "host-1").endswith(uuid(1))


def test_a_node_is_moved_to_another_host(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    settle(store, host="host-2", nodes=1)
    said = cli.succeed("node", "move", "node-2", "--host", "host-1", "--to", "host-2")
    assert said == "Node node-2 of host host-2 is open.\n"
    assert sorted(load(store, "host-2").nodes) == ["node-1", "node-2"]
    assert cli.refuse("node", "move", "node-1", "--host", "host-1", "--to", "x") == "the database has no host x"


def test_the_event_keeps_who_asked(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    cli.succeed("node", "drain", "node-1", "--reason", "r")
    *_, last = store.outbox(load(store).nodes["node-1"].stream_id, after=0, limit=ALL)
    asked = json.loads(last.asked)
    assert (asked["method"], asked["user_id"]) == ("node drain", getpass.getuser())
    assert json.loads(last.payload)["state"] == "draining"


@pytest.mark.parametrize("command", [("drain", "x", "--reason", "r"), ("undrain", "x"), ("retire", "x")])
def test_an_unknown_node_is_refused(cli: Cli, ledger: Writer, command: tuple[str, ...]) -> None:
    assert cli.refuse("node", *command) == "the database has no node x"
    assert "has no node x" in cli.refuse("node", *command, "--host", "host-1")
    assert cli.refuse("node", *command, "--host", "y") == "the database has no host y"


@pytest.mark.parametrize(
    "command",
    [
        ("drain", "node-1", "--reason", "r"),
        ("retire", "node-1"),
        ("rename", "node-1", "n"),
        ("move", "node-1", "--to", "host-1"),
    ],
    ids=lambda command: command[0],
)
def test_a_retired_node_is_said_to_be_retired(
    cli: Cli, ledger: Writer, store: SQLStore, command: tuple[str, ...]
) -> None:
    settle(store, host="host-2", nodes=1)
    cli.succeed("node", "retire", "node-1", "--host", "host-2")
    sentence = "node node-1 of host host-2 is retired: 'node undrain' takes it back"
    assert cli.refuse("node", *command, "--host", "host-2") == sentence


def test_a_node_of_several_hosts_needs_its_host(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    settle(store, host="host-2", nodes=1)
    assert cli.refuse("node", "undrain", "node-1").endswith("with --host: host-1, host-2")


@pytest.mark.parametrize(
    "arguments",
    [
        ("drain", "node-1"),
        ("drain", "node-1", "--reason", " "),
        ("drain", "node-1", "--reason", "r" * 256),
        ("drain", "node-1", "--reason", "\udcff"),
        ("retire", "node-1", "--reason", "r" * 256),
        ("rename", "node-1", "n", "--to", "x"),
        ("move", "node-1", "--host", "host-1"),
    ],
)
def test_what_is_missing_or_no_text_is_a_usage_error(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    before = states(cli)
    assert cli.run("node", *arguments).exit_code == 2
    assert states(cli) == before


def test_without_a_database_nothing_is_made(cli: Cli) -> None:
    assert cli.refuse("node", "drain", "n", "--reason", "r").startswith(f"there is no database {cli.database}: ")
    assert not cli.state.exists()


@pytest.mark.parametrize("command", ["drain", "retire"])
def test_a_reason_that_is_too_long_is_a_mistake_of_the_option(cli: Cli, ledger: Writer, command: str) -> None:
    before = cli.json("node", "list")
    done = cli.run("node", command, "node-1", "--host", "host-1", "--reason", "x" * 256)
    assert done.exit_code == 2, done.output
    assert "--reason" in done.stderr
    assert "255 characters" in done.stderr
    assert cli.json("node", "list") == before
