# SPDX-License-Identifier: Apache-2.0
"""A missing server is an error that names the packages; the tests are never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import binaries


def test_bindep_lists_every_program_that_tests_start() -> None:
    assert binaries.packages() == [
        "rabbitmq-server",
        "postgresql",
        "openssl",
        "systemd",
        "prometheus",
        "chromium",
        "chromium-driver",
    ]


def test_comments_and_other_platforms_are_not_installed(tmp_path: Path) -> None:
    bindep = tmp_path / "bindep.txt"
    bindep.write_text("# postgresql [platform:dpkg]\nerlang [platform:rpm test]\nepmd [platform:dpkg test] # why\n")

    assert binaries.packages(bindep) == ["epmd"]


def test_the_error_for_an_ordinary_user_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "missing", lambda: ["rabbitmqctl"])
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(pytest.exit.Exception, match=r"rabbitmqctl(.|\n)*rabbitmq-server postgresql") as ended:
        binaries.ensure_binaries()

    assert ended.value.returncode == 1


def test_a_failed_installation_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "missing", lambda: ["rabbitmqctl"])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr(binaries, "_install", lambda names: f"no {names[0]}")

    with pytest.raises(pytest.exit.Exception, match="no rabbitmq-server") as ended:
        binaries.ensure_binaries()

    assert ended.value.returncode == 1


def test_the_session_continues_after_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["rabbitmqctl"], ["rabbitmqctl"], []]
    installed: list[list[str]] = []
    monkeypatch.setattr(binaries, "missing", lambda: answers.pop(0))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr(binaries, "_install", lambda names: installed.append(names) or "")

    binaries.ensure_binaries()

    assert installed == [binaries.packages()]
