# SPDX-License-Identifier: Apache-2.0
"""What every command has: an example that can be read, errors as JSON, a schema, and help that is there at once."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.support.builders import uuid
from tests.support.commands import COMMANDS, check_output, examples, with_option, without_redirection
from tests.support.doc_pages import DOC
from tests.support.store import Writer
from tests.unit.cli.conftest import Cli
from tracker_worker import errors
from tracker_worker.cli.context import CommandFailed, Commands, fail
from tracker_worker.cli.failures import CODES
from tracker_worker.cli.main import main
from tracker_worker.cli.output import format_option, show_json
from tracker_worker.cli.schemas.table import OUTPUTS
from tracker_worker.store.sql import migration

JSON_COMMANDS = with_option("--format")
# What a command says first where there is neither a database nor a broker.
WITHOUT_DATABASE = [
    *("node list", "node show", "node drain", "node undrain", "node retire", "node rename", "node move", "host list"),
    *("claim list", "move list", "move show", "move finish", "move confirm", "move revert", "move abort", "move fail"),
    *("instance list", "instance show", "instance release", "instance adopt", "instance compare", "usage", "history"),
    *("db current", "db history", "db new-history", "outbox status", "outbox replay", "outbox skip"),
]
WITHOUT_BROKER = [
    *("claim begin", "claim finish", "claim abort", "claim renew", "move begin", "audit", "watch"),
    *("dead-letter list", "dead-letter show", "dead-letter replay", "dead-letter purge"),
]
WITHOUT_ANY = ["demo", "check"]  # the first needs neither, the second says what is missing
NOT_FOUND = [
    (("node", "show", "x"), {"host": None, "node": "x"}),
    (("node", "list", "--host", "x"), {"host": "x"}),
    (("node", "drain", "x", "--reason", "r"), {"node": "x"}),
    (("claim", "list", "--node", "x"), {"host": None, "node": "x"}),
    (("usage", "--host", "x"), {"host": "x"}),
    (("instance", "list", "--node", "x"), {"host": None, "node": "x"}),
    (("instance", "list", "--host", "x"), {"host": "x"}),
    (("instance", "show", uuid(9)), {"host": None, "instance_uuid": uuid(9)}),
    (
        ("instance", "release", uuid(9), "--host", "host-1", "--reason", "r"),
        {"host": "host-1", "instance_uuid": uuid(9)},
    ),
    (("move", "show", "m9"), {"move_id": "m9"}),
    (
        ("outbox", "skip", "--host", "host-1", "--node", "node-1", "--sequence", "1", "--topic", "t"),
        {"topic": "t"},
    ),
    (("outbox", "replay", "--host", "host-1", "--node", "x", "--from-sequence", "1"), {"host": "host-1", "node": "x"}),
]


def example_of(command: str) -> list[str]:
    """The first example of a command."""
    return without_redirection(examples(COMMANDS[tuple(command.split())])[0])


def arguments_of(command: str) -> list[str]:
    """Those of its first example, without the options that stand in front of the command."""
    example = example_of(command)
    return example[example.index(command.split()[0]) :]


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_can_be_read(words: tuple[str, ...]) -> None:
    command = COMMANDS[words] if words else main
    shown = CliRunner().invoke(main, [*words, "--help"], prog_name="tracker-worker", terminal_width=80).stdout
    _, sign, lines = shown.partition("\n  Example:\n")
    assert sign, f"{words} has no epilog=example(...)"
    assert all(len(line) <= 80 for line in lines.splitlines())
    found = examples(command)
    assert found
    for arguments in found:
        arguments = without_redirection(arguments)
        read = _read(main, arguments)
        assert read[: len(words)] == list(words), "the example is one of another command"


def _read(command: click.Command, arguments: list[str]) -> list[str]:
    """Have a command read its arguments, and each subcommand its own, without running them. Returns the words of the command.

    Raises click.UsageError: one of them is wrong.
    """
    context = command.make_context("tracker-worker", list(arguments))
    words = []
    while isinstance(command, click.Group):
        name, found, left = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert found is not None
        words.append(name)
        context = found.make_context(name, left, parent=context)
        command = found
    return words


def test_help_and_version_import_no_library_that_is_slow() -> None:
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tracker_worker.cli.main import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    done = CliRunner().invoke(main, line.split())\n"
        "    assert done.exit_code == 0, (line, done.output)\n"
        "    slow = {'oslo_messaging', 'sqlalchemy', 'kombu', 'eventlet', 'alembic', 'amqp'} & set(sys.modules)\n"
        "    assert not slow, (line, slow)\n"
    )
    lines = ["--help", "--version", *(f"{' '.join(words)} --help" for words in COMMANDS), "completion bash"]
    done = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(lines), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_start_without_eventlet_and_leave_it_to_drivers() -> None:
    program = "import sys, tracker_worker.cli.process; print('eventlet' in sys.modules, 'alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_the_version_has_those_of_api_schema_python_and_oslo_messaging() -> None:
    done = CliRunner().invoke(main, ["--version"])
    words = done.stdout.strip()
    assert words.startswith("tracker-worker ")
    assert f" (API 1.1, schema {migration.head()}, Python {sys.version.split()[0]}, oslo.messaging " in words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert "tracker-worker" in script
    variable = "_TRACKER_WORKER_COMPLETE"
    assert variable in script
    environment = {variable: "bash_complete", "COMP_WORDS": "tracker-worker node li", "COMP_CWORD": "2"}
    done = CliRunner().invoke(main, [], env=environment, prog_name="tracker-worker", complete_var=variable)
    assert done.stdout == "plain,list\n"


# --- errors as JSON --------------------------------------------------------------------------------------------------


def test_every_command_with_format_has_a_schema() -> None:
    assert sorted(JSON_COMMANDS) == sorted(OUTPUTS)


def test_the_codes_beside_those_of_the_api_are_no_codes_of_the_api() -> None:
    own = {code for code in CODES if code != errors.StoreUnavailable.code}
    assert not own & {kind.code for kind in errors.TrackerError.__subclasses__()}
    assert own == {
        *("usage", "configuration", "timeout", "no_worker", "not_found", "broker_unreachable", "failed")
    }  # fmt: skip


def test_the_page_has_every_code_with_its_meaning() -> None:
    page = (DOC / "admin" / "operate.md").read_text(encoding="utf-8")
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning.removesuffix(' (exit code 2)')}" in page


@pytest.mark.parametrize("command", JSON_COMMANDS)
@pytest.mark.parametrize("style", [("--format", "json"), ("--format=json",)], ids=len)
def test_a_usage_error_is_a_document_too(cli: Cli, command: str, style: tuple[str, ...]) -> None:
    done = cli.run(*command.split(), "--no-such-option", *style)
    assert done.exit_code == 2
    printed = json.loads(done.stdout)
    check_output(tuple(command.split()), printed)
    assert printed["error"]["code"] == "usage"
    assert printed["error"]["kwargs"] == {"parameter": "--no-such-option"}
    assert "--no-such-option" in printed["error"]["message"]
    assert "Usage: " in done.stderr
    assert cli.run(*command.split(), "--no-such-option").stdout == ""


def test_a_usage_error_that_a_command_finds_itself_is_a_document_too(cli: Cli) -> None:
    assert cli.error("audit", exit_code=2) == {
        "code": "usage",
        "message": "Give either --host HOST or --all.",
        "kwargs": {},
    }
    assert cli.error("node", "list", "--host", "h-\udcff", exit_code=2)["code"] == "usage"
    assert cli.error("node", "drain", "n", "--reason", " ", exit_code=2)["kwargs"] == {"parameter": "--reason"}
    assert CliRunner().invoke(main, ["--bogus", "node", "list", "--format", "json"]).stdout.startswith('{"error"')


@pytest.mark.parametrize("command", [each for each in JSON_COMMANDS if each != "check"])  # whose finding it is
def test_a_wrong_configuration_is_a_document_too(cli: Cli, command: str) -> None:
    cli.configure("[database]\ninbox_retention_seconds = many\n")
    found = cli.error(*arguments_of(command), input="")
    assert (found["code"], found["kwargs"]) == ("configuration", {})
    assert "inbox_retention_seconds" in found["message"]


@pytest.mark.parametrize("command", [*WITHOUT_DATABASE, *WITHOUT_BROKER])
def test_a_missing_server_is_a_document_too(cli: Cli, command: str) -> None:
    cli.configure(f"[DEFAULT]\ntransport_url = rabbit://u:s3cret@127.0.0.1:1//\n[tracker]\nstate_path = {cli.state}\n")
    found = cli.error(*arguments_of(command), input="")
    assert found["code"] == ("store_unavailable" if command in WITHOUT_DATABASE else "broker_unreachable")
    assert "s3cret" not in found["message"]


def test_every_command_is_tried_without_its_servers() -> None:
    assert sorted([*WITHOUT_DATABASE, *WITHOUT_BROKER, *WITHOUT_ANY]) == sorted(JSON_COMMANDS)


def test_an_unreachable_database_is_not_a_wrong_configuration(cli: Cli) -> None:
    cli.configure("[database]\nconnection = postgresql+psycopg://tracker:s3cret@127.0.0.1:1/ledger\n")
    assert cli.error("node", "list")["code"] == "store_unavailable"
    cli.configure(f"[tracker]\nstate_path = {cli.state}\n")
    cli.state.mkdir()
    cli.database.write_bytes(b"x" * 4096)
    assert cli.error("node", "list")["code"] == "store_unavailable"


@pytest.mark.parametrize(("arguments", "facts"), NOT_FOUND, ids=lambda value: " ".join(value))
def test_what_does_not_exist_is_named(cli: Cli, ledger: Writer, arguments: tuple[str, ...], facts: object) -> None:
    with cli.configuration.open("a") as configuration:
        configuration.write("[DEFAULT]\ntransport_url = rabbit://u:p@127.0.0.1:1//\n")
    found = cli.error(*arguments)
    assert (found["code"], found["kwargs"]) == ("not_found", facts)


def test_a_refusal_has_the_code_and_the_facts_of_the_api(cli: Cli, ledger: Writer) -> None:
    found = cli.error("node", "retire", "node-1")
    assert (found["code"], found["kwargs"]["instances"]) == ("node_busy", [uuid(1)])
    found = cli.error("instance", "show", "")
    assert found["code"] == "invalid_input"
    assert found["kwargs"]["field"] == "instance_uuid"


def test_a_result_that_has_begun_is_not_followed_by_an_error() -> None:
    @click.command("half")
    @format_option
    def half(style: str) -> None:
        show_json([style])
        raise CommandFailed("the other half is missing")

    done = CliRunner().invoke(Commands("group", commands={"half": half}), ["half", "--format", "json"])
    assert (done.exit_code, json.loads(done.stdout)) == (1, ["json"])
    assert done.stderr == "tracker-worker: the other half is missing\n"


def test_an_unexpected_error_is_a_document_and_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("tracker_worker.cli.node.read_nodes", broken)
    done = cli.run("node", "list", "--format", "json")
    assert isinstance(done.exception, RuntimeError)
    assert json.loads(done.stdout)["error"] == {
        "code": "failed",
        "message": "unexpected error: RuntimeError: a defect",
        "kwargs": {},
    }
    assert cli.run("node", "list").stdout == ""


def test_without_format_an_error_is_one_sentence_on_stderr() -> None:
    done = CliRunner().invoke(click.command()(lambda: fail("no\n  such thing")))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "tracker-worker: no such thing\n")


# --- schemas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_schema_says_what_a_command_prints_and_refuses_everything_else(cli: Cli, command: str) -> None:
    printed = json.loads(cli.succeed("schema", *command.split()))
    assert printed["title"] == f"tracker-worker {command} --format json"
    assert printed["anyOf"][-1] == {"$ref": "#/$defs/Error"}
    assert all(definition["description"] for definition in printed["$defs"].values())
    with pytest.raises(Exception, match="is not valid under any of the given schemas"):
        check_output(tuple(command.split()), {"surely": "not"})


def test_the_commands_that_have_a_schema_are_listed(cli: Cli) -> None:
    assert cli.succeed("schema").splitlines() == list(OUTPUTS)
    assert "'schema' lists those" in cli.run("schema", "serve").stderr
