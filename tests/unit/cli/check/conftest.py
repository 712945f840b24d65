# SPDX-License-Identifier: Apache-2.0
"""An installation without a broker, whose database is a file."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.checking import Checker, Operator, write_option
from tests.unit.cli.conftest import Cli

NOBODY = "rabbit://tracker:secret@127.0.0.1:1//"
"""No broker listens there."""


@pytest.fixture
def checker(cli: Cli) -> Checker:
    cli.configure(f"[DEFAULT]\ntransport_url = {NOBODY}\n[tracker]\nstate_path = {cli.state}\nhosts = host-1\n")
    return Checker(cli.configuration)


@pytest.fixture
def operator(checker: Checker) -> Operator:
    return Operator(checker, partial(write_option, checker.configuration))
