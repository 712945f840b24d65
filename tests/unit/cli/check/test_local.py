# SPDX-License-Identifier: Apache-2.0
"""``check`` without a broker: the files, the configuration as a whole, and what the exit codes are."""

from __future__ import annotations

import pytest

from tests.support.checking import Checker, Operator
from tests.unit.cli.conftest import Cli
from tracker_worker.store.sql.store import SQLStore


def test_a_file_with_a_password_that_everybody_can_read_is_an_error(checker: Checker, operator: Operator) -> None:
    checker.configuration.chmod(0o644)
    operator.apply(checker.one("configuration_mode", "error", "mode 0644", "[DEFAULT] transport_url"))
    assert checker.configuration.stat().st_mode & 0o777 == 0o640
    assert checker.problems("configuration_mode") == []


def test_a_file_without_a_password_may_be_read_but_not_written_by_everybody(
    checker: Checker, operator: Operator, cli: Cli
) -> None:
    cli.configure("[DEFAULT]\ntransport_url = rabbit://127.0.0.1:1//\n[database]\nconnection = sqlite:////no/such\n")
    checker.configuration.chmod(0o644)
    assert checker.problems("configuration_mode") == []
    checker.configuration.chmod(0o646)
    operator.apply(checker.one("configuration_mode", "error", "mode 0646", "written by everybody"))
    assert checker.problems("configuration_mode") == []


@pytest.mark.parametrize(("mode", "level"), [(0o755, "warning"), (0o757, "error")])
def test_the_state_directory_is_closed_to_others(
    mode: int, level: str, checker: Checker, operator: Operator, store: SQLStore, cli: Cli
) -> None:
    for file in cli.state.iterdir():
        file.chmod(0o600)
    cli.state.chmod(mode)
    operator.apply(checker.one("state_mode", level, f"mode {mode:04o}", "[tracker] state_path"))
    assert checker.problems("state_mode") == []


@pytest.mark.parametrize(("mode", "level"), [(0o604, "warning"), (0o606, "error")])
def test_the_files_of_the_database_are_closed_to_others(
    mode: int, level: str, checker: Checker, operator: Operator, store: SQLStore, cli: Cli
) -> None:
    cli.state.chmod(0o700)
    files = list(cli.state.glob("tracker.sqlite*"))
    assert len(files) == 3  # -wal and -shm too
    for file in files:
        file.chmod(mode)
    cure = checker.one("state_mode", level, *(f"{file} (mode {mode:04o})" for file in files))
    operator.apply(cure)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert checker.problems("state_mode") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[bus]\nprefetch = many\n", "prefetch"),
        ("[tracker]\nhosts = h1 h2\n", "[tracker] hosts has a space in 'h1 h2'"),
        ("[DEFAULT]\ntransport_url = kafka://u:secret@h/\n", "transport_url"),
        ("[DEFAULT\n", "worker.conf"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_the_only_finding(text: str, word: str, checker: Checker) -> None:
    with checker.configuration.open("a", encoding="utf-8") as file:
        file.write(text)
    (finding,) = checker.findings()
    assert (finding["level"], finding["name"]) == ("error", "configuration")
    assert word in finding["message"]
    assert "secret" not in str(finding)


def test_wrong_usage_has_exit_code_2_and_a_text_of_its_own(checker: Checker) -> None:
    done = checker.run("--max-outbox-age", "soon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--max-outbox-age'" in done.stderr


def test_the_broker_is_dead_and_the_database_is_checked_all_the_same(
    checker: Checker, store: SQLStore, cli: Cli
) -> None:
    found = {finding["name"]: finding for finding in checker.findings()}
    assert found["broker"]["level"] == "error"
    assert "127.0.0.1:1" in found["broker"]["message"]
    assert "not checked: broker_alarm, host_consumers" in found["broker"]["message"]
    assert "secret" not in str(found)
    assert found["schema"]["level"] == "ok"
    assert found["database"]["level"] == "ok"
    assert "other_ledger" not in found

    lines = checker.run().stdout.splitlines()
    assert lines[-1] == f"{sum(each['level'] == 'error' for each in found.values())} errors, " + (
        f"{sum(line.startswith('warning ') for line in lines)} warnings"
    )
    assert [line for line in lines if line.endswith("  systemctl start rabbitmq-server")]
