# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: help, usage errors, failures, and the lines of ``watch``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.rows import every_type
from tests.unit.cli.conftest import Cli
from tracker_worker.cli.feed import describe
from tracker_worker.cli.main import main
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, PLAIN
from tracker_worker.wire.message import decode_message

ENVELOPE = {"event_type": "tracker.claim.begun", "timestamp": "2026-01-15 12:00:00.000000"}
PLACE = {"host": "host-1", "node": "node-1", "sequence": 7, "occurred_at": "2026-01-15T12:00:00.000000Z"}


def _commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield (*path, name)
            if isinstance(command, click.Group):
                yield from _commands(command, *path, name)


COMMANDS = list(_commands(main))


def test_every_subcommand_exists() -> None:
    assert {" ".join(command) for command in COMMANDS} >= {
        *("serve", "demo", "usage", "audit", "watch", "node list", "node show", "config sample"),
        *("claim list", "claim begin", "claim finish", "claim abort", "outbox status", "outbox replay"),
        *("outbox skip",),
        *("db upgrade", "db current", "db check"),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_subcommand_has_its_help(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*command, "--help"])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: main {' '.join(command)} ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such",),
        ("node", "show"),
        ("node", "list", "--format", "xml"),
        ("claim", "begin", "--host", "h", "--vcpus", "1", "--memory-mb", "1"),
        ("claim", "begin", "--host", "h", "--vcpus", "-1", "--memory-mb", "1", "--root-gb", "1"),
        ("claim", "finish", "c"),
        ("audit",),
        ("audit", "--all", "--host", "h"),
        ("watch", "--count", "0"),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_with_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli.run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("node", "list", "--host"), ("host", "forget"), ("instance", "list", "--project"), ("usage", "--host")],
)
def test_an_argument_that_is_not_utf_8_is_a_usage_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli.run(*arguments, "h-\udcff")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "Error: an argument is not text in UTF-8: h-\\udcff"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[database]\ninbox_retention_seconds = many\n", "many"),
        ("[bus]\nqueue_type = tin\n", "tin"),
        ("[database]\nconnection = mysql://u:s3cret@db/x\n", "is for mysql"),
        ("no section\n", "worker.conf"),
    ],
)
def test_an_invalid_configuration_is_an_error_of_one_sentence(cli: Cli, text: str, says: str) -> None:
    cli.configure(text)
    sentence = cli.refuse("node", "list")
    assert says in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "--host", "h"),
        ("audit", "--all"),
        ("watch",),
        ("claim", "abort", "c", "--host", "h"),
        ("claim", "begin", "--host", "h", "--vcpus", "1", "--memory-mb", "1", "--root-gb", "1"),
    ],
    ids=" ".join,
)
def test_an_unreachable_broker_is_an_error_of_one_sentence_without_the_password(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    cli.configure("[DEFAULT]\ntransport_url = rabbit://tracker:s3cret@127.0.0.1:1,tracker:s3cret@127.0.0.1:2//\n")
    sentence = cli.refuse(*arguments)
    assert sentence.startswith("no broker can be reached: 127.0.0.1:1/")
    assert "127.0.0.1:2/" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (
            {**PLACE, "instance_id": "i-1", "resources": {"VCPU": 2, "DISK_GB": 50}},
            "2026-01-15T12:00:00.000000Z tracker.claim.begun host-1/node-1 #7 i-1 VCPU=2 DISK_GB=50",
        ),
        (
            {
                **PLACE,
                "instance_id": "i-1",
                "resources": {"VCPU": 2},
                "shortfalls": [
                    {"resource": "VCPU", "requested": 2, "used": 3, "limit": 4},
                    {"resource": "DISK_GB", "requested": 5, "used": 6, "limit": 7},
                ],
            },
            "2026-01-15T12:00:00.000000Z tracker.claim.begun host-1/node-1 #7 i-1 "
            "VCPU requested=2 used=3 limit=4, DISK_GB requested=5 used=6 limit=7",
        ),
        (
            {**PLACE, "vcpus_used": 1, "vcpus": 8, "memory_mb_used": 512, "memory_mb": None},
            "2026-01-15T12:00:00.000000Z tracker.claim.begun host-1/node-1 #7 - VCPU=1/8 MEMORY_MB=512/-",
        ),
        ({"instance_id": "\x1b]0;x\n"}, "2026-01-15 12:00:00.000000 tracker.claim.begun -/- #- \\x1b]0;x\\n "),
        ("text", "2026-01-15 12:00:00.000000 tracker.claim.begun -/- #- - "),
    ],
)
def test_a_notification_is_one_line(payload: Any, line: str) -> None:
    assert describe({**ENVELOPE, "payload": payload}) == line


def test_an_event_is_the_same_line_in_each_dialect() -> None:
    row = every_type()["tracker.claim.finished"]
    [told] = [describe(decode_message(body)) for body in PLAIN.bodies(row)]
    assert "tracker.claim.finished host-1/node-1 #" in told
    assert [describe(decode_message(body)) for body in CLOUDEVENTS.bodies(row)] == [told]
    [created] = [describe(decode_message(body)) for body in COMPUTE.bodies(row)]
    assert created == told.replace("tracker.claim.finished", "compute.instance.create.end")
