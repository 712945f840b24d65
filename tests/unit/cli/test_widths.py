# SPDX-License-Identifier: Apache-2.0
"""Every command that prints a table, in terminals of 60, 80 and 120 columns, with long names."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.builders import NOW, begin, inventory, node_name, uuid
from tests.support.commands import with_option
from tests.support.store import TOPIC, Writer, settle
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_dead_letter import PARKED, letter, request
from tracker_worker.cli.dead_letters.command import _COLUMNS, _row, _show_outcomes
from tracker_worker.cli.dead_letters.format import describe, show_described
from tracker_worker.cli.dead_letters.replay import Outcome
from tracker_worker.cli.node import NODE_COLUMNS, node_rows
from tracker_worker.cli.output import show_table
from tracker_worker.domain import commands
from tracker_worker.errors import ClaimConflict
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.requests.refusals import of_refusal
from tracker_worker.store.sql.store import SQLStore

WIDTHS = (60, 80, 120)
HOST = "compute-000017.rack-42.zone-a.region-eu-west-1.example.com"
NODE = "a-node-whose-name-is-longer-than-the-narrowest-of-the-terminals-that-are-tried"
MOVE = "019bc187-7a40-7000-97e7-7bad5d85d1c6"
REASON = "the second power supply is replaced, and nothing may be placed here before 2026-02-01"

# Every command with --wide, and how it is called on the database below; of None a function below shows the rows.
TABLES: dict[str, tuple[str, ...] | None] = {
    "node list": ("node", "list"),
    "host list": ("host", "list"),
    "claim list": ("claim", "list"),
    "move list": ("move", "list"),
    "instance list": ("instance", "list"),
    "usage": ("usage",),
    "history": ("history",),
    "db history": ("db", "history"),
    "outbox status": ("outbox", "status"),
    "audit": None,
    "dead-letter list": None,
    "dead-letter replay": None,
}
FIELDS = [("node", "show", NODE), ("instance", "show", uuid(1)), ("move", "show", MOVE)]
# The keys of JSON documents whose values are never folded.
NAMES = {"host", "node", "claim_id", "instance_uuid", "id", "from_host", "to_host", "ledger_id", "queue", "topic"}


@pytest.fixture
def long_names(cli: Cli, store: SQLStore) -> Writer:
    """A host and a node with long names, custom classes, a reason, a claim, a move, and a second host with short names."""
    short = settle(store, nodes=1).put(begin(7, node=node_name(1), project_id=None)).commit()
    short.put(
        commands.BeginMove(begin=begin(8, node=node_name(1)), id=MOVE, kind="migration", from_host=HOST, from_node=NODE)
    ).commit()
    host_id = store.register_host(HOST, topic="tracker", version="0.1.0", now=NOW)
    store.create_node(host_id, NODE)
    store.open_cursors(HOST, [TOPIC, "a.topic.with.a.long.name"])
    declared = inventory(resources={"CUSTOM_GPU_WITH_A_LONG_NAME": {"total": 4}, "VGPU": {"total": 8}})
    refused = ClaimConflict(instance_uuid=uuid(1), node=NODE, reason="it is charged on another node of this very host")
    asked = Asked(method="begin_resource_claim", project_id="p" * 32, user_id="u" * 32, request_id=f"req-{uuid(7)}")
    entry = of_refusal(refused, at=NOW, host=HOST, node=NODE, instance_uuid=uuid(1), asked=asked)
    store.keep_refusals([entry.refusal_row(uuid(900))], 10)
    writer = Writer(store, HOST).put(commands.ReportNode(node=NODE, inventory=declared))
    writer.put(begin(1, node=NODE, resources={"CUSTOM_GPU_WITH_A_LONG_NAME": 2, "VGPU": 1}))
    writer.put(begin(2, node=NODE, project_id="a-project-with-a-name-of-its-own-that-is-long"))
    writer.put(commands.DrainNode(node=NODE, reason=REASON)).commit()
    store.take_lease([host_id], f"{HOST}:4711:0123abcd", now=NOW, until=store.time() + 10**9)
    store.mark_refused(writer[NODE].stream_id, TOPIC, 2, "the message is larger than the broker takes")
    return writer


def check_lines(text: str, width: int) -> None:
    """No line is wider than the terminal, unless it is one word."""
    for line in text.splitlines():
        assert len(line) <= width or " " not in line.strip(), (len(line), line)


def names_in(document: Any) -> Iterator[str]:
    """The names in a JSON document that a command has printed."""
    if isinstance(document, list):
        for each in document:
            yield from names_in(each)
    elif isinstance(document, dict):
        for key, value in document.items():
            if key in NAMES and isinstance(value, str):
                yield value
            yield from names_in(value)


def test_every_command_with_a_table_is_tried() -> None:
    assert sorted(TABLES) == sorted(with_option("--wide"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", [each for each in TABLES.values() if each], ids=" ".join)
def test_a_table_fits_and_folds_no_name(cli: Cli, long_names: Writer, arguments: tuple[str, ...], width: int) -> None:
    every = words_in(cli.succeed(*arguments))
    narrow = cli.run(*arguments, env={"COLUMNS": str(width)})
    assert narrow.exit_code == 0, narrow.output
    check_lines(narrow.stdout, width)
    check_lines(narrow.stderr, width)
    assert words_in(narrow.stdout) <= every, "a word was folded"
    if words_in(narrow.stdout) < every:
        assert narrow.stderr.startswith("Not shown for want of room: ")
    wide = cli.run(*arguments, "--wide", env={"COLUMNS": str(width)})
    assert (wide.exit_code, wide.stderr) == (0, "")
    check_lines(wide.stdout, width)
    assert words_in(wide.stdout) == every


def words_in(table: str) -> set[str]:
    """The words of a table, but for its rule and for an age in seconds, which changes."""
    rule = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    return {word for word in table.split() if word.strip(rule) and not (word.isdecimal() and len(word) > 6)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", FIELDS, ids=" ".join)
def test_the_fields_of_one_object_fit_and_are_all_there(
    cli: Cli, long_names: Writer, arguments: tuple[str, ...], width: int
) -> None:
    done = cli.run(*arguments, env={"COLUMNS": str(width)})
    assert (done.exit_code, done.stderr) == (0, "")
    check_lines(done.stdout, width)
    for name in names_in(cli.json(*arguments)):
        assert name in done.stdout


def shown(show: Any, width: int, *arguments: str) -> str:
    """What a function prints as a command in a terminal of so many columns."""

    @click.command(params=[click.Option(["--wide"], is_flag=True)])
    @click.pass_context
    def command(ctx: click.Context, wide: bool) -> None:
        ctx.meta["tracker_worker.wide"] = wide
        show()

    done = CliRunner().invoke(command, arguments, env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    check_lines(done.stdout, width)
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_the_nodes_of_an_audit_fit(cli: Cli, long_names: Writer, width: int) -> None:
    views = cli.json("node", "list")
    for arguments in ((), ("--wide",)):
        text = shown(lambda: show_table(NODE_COLUMNS, node_rows(views), empty=""), width, *arguments)
        assert HOST in text
        assert NODE in text


@pytest.mark.parametrize("width", WIDTHS)
def test_dead_letters_fit(width: int) -> None:
    headers = {
        **PARKED,
        "x-tracker-routing-key": f"tracker.{HOST}",
        "x-tracker-reason": f"node_not_found: Host {HOST} has no node {NODE}",
    }
    found = [
        letter(request(host=HOST, instance={"uuid": uuid(number), "node": NODE}), headers, number=number)
        for number in (1, 100)
    ]
    outcomes = [Outcome(found[0], None), Outcome(found[1], f"no queue has the routing key tracker.{HOST}")]
    for arguments in ((), ("--wide",)):
        text = shown(lambda: show_table(_COLUMNS, map(list, map(_row, found)), empty=""), width, *arguments)
        assert found[0].id in text
        text = shown(lambda: _show_outcomes(outcomes, "replayed", "table"), width, *arguments)
        assert "replayed" in text
        if arguments:
            assert uuid(1) in text
            assert f"openstack/tracker.{HOST}" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bytes_of_a_dead_letter_fit(width: int) -> None:
    whole = replace_body(letter(b"\xff" * 40), b"\xff" * 40)
    text = shown(lambda: show_described(describe(whole, 1 << 20)), width)
    assert "00000000  ff ff" in text


def replace_body(message: Any, body: bytes) -> Any:
    import dataclasses

    return dataclasses.replace(message, body=body)


def test_without_a_terminal_only_a_width_that_was_asked_for_counts(cli: Cli, long_names: Writer) -> None:
    whole = cli.succeed("claim", "list")
    assert cli.run("claim", "list", env={"COLUMNS": "60", "LINES": "24"}).stdout == whole
    assert cli.run("claim", "list", env={"COLUMNS": "0"}).stdout == whole
    assert cli.run("claim", "list", env={"COLUMNS": "60"}).stdout != whole


def test_a_real_terminal_is_measured(cli: Cli, long_names: Writer) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {**os.environ, "COLUMNS": "200", "LINES": "24"}
    code = "import sys; from tracker_worker.cli.main import main; main(sys.argv[1:])"
    program = [sys.executable, "-c", code, f"--config-file={cli.configuration}", "claim", "list"]
    done = subprocess.run(program, stdout=theirs, stderr=subprocess.PIPE, env=environment, text=True, timeout=60)
    os.close(theirs)
    printed = os.read(ours, 65536).decode().replace("\r\n", "\n")
    os.close(ours)
    assert done.returncode == 0, done.stderr
    check_lines(printed, 60)
    check_lines(done.stderr, 60)
    assert [claim["claim_id"] in printed for claim in json.loads(cli.succeed("claim", "list", "--format", "json"))]
    assert "Not shown for want of room: " in done.stderr
