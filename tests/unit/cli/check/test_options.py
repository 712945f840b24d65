# SPDX-License-Identifier: Apache-2.0
"""Names in a configuration that mean nothing: each is found, and its cure mends the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checking import Checker, Operator
from tracker_worker.cli.check.options import find_unknown
from tracker_worker.cli.context import Settings
from tracker_worker.cli.sample import sample_configuration

# What is in the file -> what the message has, and what the file has after the cure.
WRONG = {
    "host for hosts": ("[tracker]\nhost = h2\n", "[tracker] host in", "did you mean hosts?", "[tracker]\nhosts = h2\n"),
    "a colon": ("[tracker]\nhost : h2\n", "[tracker] host in", "did you mean hosts?", "[tracker]\nhosts : h2\n"),
    "capitals": ("[bus]\nPrefetch = 7\n", "[bus] Prefetch", "did you mean prefetch?", "[bus]\nprefetch = 7\n"),
    "of a library": (
        "[oslo_messaging_rabbit]\nheartbeat_timeout_treshold = 7\n",
        "[oslo_messaging_rabbit]",
        "did you mean heartbeat_timeout_threshold?",
        "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 7\n",
    ),
    "an option of the log": ("[DEFAULT]\nlog_fiel = x\n", "log_fiel", "did you mean log_file?", "log_file = x\n"),
    "a group": ("[trakcer]\ntopic = t\n", "[trakcer] in", "did you mean [tracker]?", "\n[tracker]\ntopic = t\n"),
    "default": ("[default]\nregion = r\n", "[default] in", "did you mean [DEFAULT]?", "\n[DEFAULT]\nregion = r\n"),
    "in another group": (
        "[bus]\nregion = r\n[notifications]\nwarn_events =\n",
        "[bus] region",
        "did you mean [DEFAULT] region?",
        "[bus]\n[notifications]\nwarn_events =\n\n[DEFAULT]\nregion = r\n",
    ),
    "nothing like it": (
        "[bus]\nfrobnicate = 1\nprefetch = 9\n",
        "[bus] frobnicate",
        "no effect",
        "[bus]\nprefetch = 9\n",
    ),
    "a group like none": (
        "[keystone_authtoken]\nusername = u\npassword = secret\n more\n[bus]\nprefetch = 9\n",
        "[keystone_authtoken] in",
        "no group",
        "\n[bus]\nprefetch = 9\n",
    ),
    "special characters": ("[bus]\na.b*c/d = 1\n", "[bus] a.b*c/d", "no effect", "[bus]\n"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_name_that_means_nothing_is_an_error_until_it_is_mended(
    wrong: str, checker: Checker, operator: Operator
) -> None:
    text, name, hint, mended = WRONG[wrong]
    with checker.configuration.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}")

    cure = checker.one("options", "error", name, hint, str(checker.configuration))
    assert "secret" not in cure
    operator.apply(cure)

    assert checker.configuration.read_text("utf-8").endswith(mended)
    assert checker.problems("options") == []


def test_a_variable_of_the_environment_is_an_error_until_it_is_unset(checker: Checker, operator: Operator) -> None:
    checker.environment |= {
        "OS_TRACKER__HOST": "h2",
        "OS_TRACKER__TOPIC": "tracker",
        "OS_NOVA__THING": "x",
        "OS_USER": "u",
    }

    cure = checker.one("options", "error", "[tracker] host in the environment", "did you mean hosts?")
    assert cure == "unset OS_TRACKER__HOST"
    operator.apply(cure)

    assert checker.problems("options") == []


def test_a_value_of_several_lines_is_left_to_the_operator(checker: Checker) -> None:
    with checker.configuration.open("a", encoding="utf-8") as file:
        file.write("[bus]\nfrobnicate = 1\n  2\n")
    assert checker.one("options", "error").startswith("take frobnicate, with all lines of its value, out of [bus] of ")


def test_everything_that_the_sample_has_is_known(tmp_path: Path) -> None:
    lines = sample_configuration().splitlines()
    options = [line.removeprefix("#") for line in lines if line.startswith("[") or (line[:2] > "#A" and " = " in line)]
    text = "\n".join(line if line.startswith("[") else f"{line.partition(' = ')[0]} =" for line in options)
    assert "transport_url =" in text
    assert "[oslo_messaging_rabbit]" in text
    file = tmp_path / "sample.conf"
    file.write_text("[upgrade_levels]\n", encoding="utf-8")
    conf = Settings((str(file),), ()).load()
    file.write_text(
        text + "\n[oslo_messaging_rabbit]\nkombu_reconnect_timeout =\n[DEFAULT]\nlogfile =\n", encoding="utf-8"
    )
    assert find_unknown(conf) == []  # the files are read again: an empty value would not be valid for most options
    file.write_text(text + "\n[oslo_messaging_rabbit]\nno_such =\n", encoding="utf-8")
    assert [unknown.option for unknown in find_unknown(conf)] == ["no_such"]
