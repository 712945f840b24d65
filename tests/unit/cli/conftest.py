# SPDX-License-Identifier: Apache-2.0
"""A ledger on disk and the command line, in this process."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # Some modules that oslo.messaging imports are deprecated; the warnings are not about this project. The program's choice of
    # threads must be imported first.
    warnings.simplefilter("ignore")
    import tracker_worker.cli.threading_backend  # noqa: F401

    # isort: split
    import oslo_messaging  # noqa: F401

import pytest
from click.testing import CliRunner, Result

from tests.support.builders import begin
from tests.support.commands import check_output
from tests.support.store import Writer, settle
from tracker_worker.cli.main import main
from tracker_worker.store.sql.store import SQLStore


class Cli:
    """``tracker-worker`` with its own configuration file."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.database = self.state / "tracker.sqlite"
        self.configuration = directory / "worker.conf"
        self.configure(f"[tracker]\nstate_path = {self.state}\n")

    def configure(self, text: str) -> None:
        self.configuration.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, **options: Any) -> Result:
        """Run a subcommand; ``options`` are those of ``CliRunner.invoke``."""
        return CliRunner().invoke(main, ["--config-file", str(self.configuration), *arguments], **options)

    def succeed(self, *arguments: str) -> str:
        """Run a subcommand that must succeed, and return its output."""
        done = self.run(*arguments)
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run a subcommand that must succeed, and return its JSON document, which is what its schema says."""
        printed = json.loads(self.succeed(*arguments, "--format", "json"))
        check_output(arguments, printed)
        return printed

    def error(self, *arguments: str, exit_code: int = 1, **options: Any) -> Any:
        """Run a subcommand that must fail with --format json, and return the error on stdout, which is what its schema says."""
        done = self.run(*arguments, "--format", "json", **options)
        assert done.exit_code == exit_code, done.output
        assert isinstance(done.exception, SystemExit), done.exception
        (line,) = done.stdout.splitlines()
        printed = json.loads(line)
        check_output(arguments, printed)
        assert set(printed) == {"error"}
        if exit_code == 1:
            assert done.stderr == f"tracker-worker: {printed['error']['message']}\n"
        return printed["error"]

    def refuse(self, *arguments: str) -> str:
        """Run a subcommand that must fail, and return its one line on stderr."""
        done = self.run(*arguments)
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit), done.exception
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("tracker-worker: ")
        return sentence.removeprefix("tracker-worker: ")


@pytest.fixture(autouse=True)
def no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU readline, which may be loaded here, sets LINES and COLUMNS: then the width means nothing (``cli/output.py``)."""
    for name in ("LINES", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line without a database."""
    return Cli(tmp_path)


@pytest.fixture
def store(cli: Cli) -> Iterator[SQLStore]:
    """The empty database of ``cli``, opened by another program."""
    cli.state.mkdir()
    opened = SQLStore(f"sqlite:///{cli.database}")
    opened.start()
    yield opened
    opened.stop()


@pytest.fixture
def ledger(store: SQLStore) -> Writer:
    """host-1 with node-1 and node-2; instance 1 is building on node-1, instances 2 and 3 on node-2."""
    writer = settle(store)
    for number, node in ((1, "node-1"), (2, "node-2"), (3, "node-2")):
        writer.put(begin(number, node=node))
    return writer.commit()
