# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker rabbitmq permissions``: lines for a shell, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.support.doc_pages import DOC, blocks
from tests.unit.cli.conftest import Cli

ROLES = ["worker", "scheduler", "billing", "operator"]


def permissions(cli: Cli, *options: str) -> list[list[str]]:
    """The words of each line, as a shell reads them."""
    return [shlex.split(line) for line in cli.succeed("rabbitmq", "permissions", *options).splitlines()]


@pytest.mark.parametrize("role", ROLES)
def test_one_line_gives_the_permissions_and_one_the_topic_permissions(cli: Cli, role: str) -> None:
    plain, topic = permissions(cli, "--role", role, "--vhost", "/cloud")
    assert plain[:5] == ["rabbitmqctl", "set_permissions", "-p", "/cloud", role]
    assert topic[:6] == ["rabbitmqctl", "set_topic_permissions", "-p", "/cloud", role, "openstack"]
    assert (len(plain), len(topic)) == (8, 8)


def test_names_are_those_of_the_configuration(cli: Cli) -> None:
    cli.configure(
        "[DEFAULT]\ncontrol_exchange = nova\ntransport_url = rabbit://u:p@h/prod\n"
        "[tracker]\nhosts = a-1, b.example\ninventory_driver = fake\ntopic = claims\n"
        "[bus]\ndead_letter_queue = lost\nreply_queue_prefixes = answers_\n"
        "[notifications]\ntopics = bills\ncloudevents_topics = events\n"
    )
    plain, topic = permissions(cli, "--role", "worker")
    assert plain[3:5] == ["prod", "worker"]
    assert plain[5] == (
        r"^(nova|claims_fanout|claims|claims\.a-1|claims\.b\.example|claims_fanout_.+|claims_ledger\.a-1|"
        r"claims_ledger\.b\.example|claims_ledger_lock\.a-1|claims_ledger_lock\.b\.example|reply_ledger_.+|lost|"
        r"bills\..+|events\..+)$"
    )
    assert topic[5:] == [
        "nova",
        r"^(bills\..+|events\..+|claims|claims\.a-1|claims\.b\.example)$",
        r"^(claims|claims\.a-1|claims\.b\.example|bills\..+|events\..+)$",
    ]
    (scheduler, _) = permissions(cli, "--role", "scheduler")
    assert scheduler[7] == "^answers_.+$"


def test_hosts_and_the_user_may_be_named(cli: Cli) -> None:
    plain, topic = permissions(cli, "--role", "worker", "--host", "h1", "--host", "h2", "--user", "w 'x'")
    assert plain[4] == "w 'x'"
    assert r"|tracker\.h1|tracker\.h2|" in plain[5]
    assert topic[6] == r"^(notifications\..+|tracker|tracker\.h1|tracker\.h2)$"
    _, of_scheduler = permissions(cli, "--role", "scheduler", "--host", "h1")
    assert of_scheduler[6] == r"^(tracker|tracker\.h1)$"


def test_a_host_that_cannot_be_one_is_refused(cli: Cli) -> None:
    assert "--host" in cli.refuse("rabbitmq", "permissions", "--role", "worker", "--host", "a*b")


def documented() -> Iterator[tuple[str, str]]:
    """The command and the output of each session in the pages for administrators."""
    for page in (DOC / "admin" / "install.md", DOC / "admin" / "rights.md"):
        for block in blocks(page, "console"):
            command, _, output = block.text.partition("\n")
            if "rabbitmq permissions" in command:
                yield command, output


def test_the_pages_show_what_the_command_prints(cli: Cli) -> None:
    cli.configure("[DEFAULT]\ntransport_url = rabbit://tracker:secret@rabbit-1/\n[tracker]\nhosts = compute-1\n")
    shown = list(documented())
    assert {role for command, _ in shown for role in ROLES if f"--role {role}" in command} == set(ROLES)
    for command, output in shown:
        words = shlex.split(command.removeprefix("$ "))
        assert words[0] == "tracker-worker"
        arguments = words[words.index("rabbitmq") :]
        assert cli.succeed(*arguments) == output.replace(" \\\n    ", " ")
