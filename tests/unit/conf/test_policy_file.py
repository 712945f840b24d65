# SPDX-License-Identifier: Apache-2.0
"""The policy file: found as oslo.policy finds it, and every mistake in it is one sentence that names the file."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.support.doc_pages import DOC, section
from tracker_worker.conf import register_own_opts
from tracker_worker.conf.policy_file import PolicyFile, read_policy_file
from tracker_worker.conf.rules import RULES, list_rules, rule_of
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.requests.methods import METHODS


def configuration(directory: Path, options: str = "") -> cfg.ConfigOpts:
    path = directory / "worker.conf"
    path.write_text(options, encoding="utf-8")
    conf = cfg.ConfigOpts()
    register_own_opts(conf)
    conf([f"--config-file={path}"], default_config_files=[], default_config_dirs=[])
    return conf


def read(directory: Path, text: str) -> PolicyFile | None:
    (directory / "policy.yaml").write_text(text, encoding="utf-8")
    return read_policy_file(configuration(directory))


def test_every_method_but_the_ping_has_a_rule() -> None:
    named = [method for rule in RULES.values() for method in rule.methods]
    assert sorted(named) == sorted(METHODS.keys() - {"oslo_rpc_server_ping"})
    assert rule_of("oslo_rpc_server_ping") is None
    assert rule_of("a method of tomorrow") == "tracker:administer"


def test_the_page_has_every_rule_with_its_methods() -> None:
    rows = [line.split("|") for line in section(DOC / "admin" / "rights.md", "Rules").splitlines() if line[:3] == "| `"]
    shown = {cells[1].strip(" `"): set(re.findall(r"`(\w+)`", cells[2])) for cells in rows}
    assert shown == {name: set(rule.methods) for name, rule in RULES.items()}


def test_the_tools_of_oslo_policy_know_the_rules() -> None:
    listed = list_rules()
    assert [rule.name for rule in listed] == list(RULES)
    assert {rule.check_str for rule in listed} == {""}
    assert all(rule.description and rule.operations for rule in listed)


def test_the_generator_of_oslo_policy_prints_them() -> None:
    generator = Path(sys.executable).with_name("oslopolicy-sample-generator")
    done = subprocess.run(
        [generator, "--namespace", "tracker_worker"], capture_output=True, text=True, timeout=60, check=True
    )
    assert [line for line in done.stdout.splitlines() if line.startswith('#"')] == [f'#"{name}": ""' for name in RULES]


def test_oslo_policy_is_not_imported_without_a_file(tmp_path: Path) -> None:
    configuration(tmp_path)
    program = f"""
import sys
from oslo_config import cfg
import tracker_worker.cli.threading_backend
from tracker_worker.conf import register_own_opts
from tracker_worker.service.requests.permissions import Permissions
import tracker_worker.service.worker
conf = cfg.ConfigOpts()
register_own_opts(conf)
conf(["--config-file={tmp_path / "worker.conf"}"], default_config_files=[], default_config_dirs=[])
assert Permissions(conf).permit is None
print([name for name in sys.modules if name.startswith("oslo_policy")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_without_a_file_there_are_no_rules(tmp_path: Path) -> None:
    assert read_policy_file(configuration(tmp_path)) is None
    assert read_policy_file(configuration(tmp_path, "[oslo_policy]\npolicy_file =\n")) is None


@pytest.mark.parametrize("text", ["", "# nothing\n", '"tracker:read": "@"\n', '"tracker:read": ""\nmine: "role:x"\n'])
def test_a_file_that_lets_everybody_do_everything_restricts_nothing(tmp_path: Path, text: str) -> None:
    file = read(tmp_path, text)
    assert file is not None
    assert file.restricted == frozenset()


def test_a_file_beside_the_configuration_is_read_and_the_other_rules_keep_their_defaults(tmp_path: Path) -> None:
    file = read(tmp_path, '"tracker:claim": "rule:scheduler"\nscheduler: "role:scheduler"\n')
    assert file is not None
    assert file.path == str(tmp_path / "policy.yaml")
    assert file.restricted == {"tracker:claim"}
    assert file.enforcer.enforce("tracker:claim", {}, {"roles": ["scheduler"]})
    assert not file.enforcer.enforce("tracker:claim", {}, {"roles": ["reader"]})


def test_a_file_that_is_named_may_be_anywhere(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere.yaml").write_text('"tracker:read": "!"\n', encoding="utf-8")
    file = read_policy_file(configuration(tmp_path, f"[oslo_policy]\npolicy_file = {elsewhere}\n"))
    assert file is not None
    assert file.restricted == {"tracker:read"}


@pytest.mark.parametrize("name", ["policy.yaml", "other.yaml"])
def test_a_file_that_is_named_must_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^\[oslo_policy\] policy_file {name}: there is no such file$"):
        read_policy_file(configuration(tmp_path, f"[oslo_policy]\npolicy_file = {name}\n"))


def test_a_file_that_there_was_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        read_policy_file(configuration(tmp_path), required=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"tracker:claim: x', "is no YAML in line 1: "),
        ("tracker:claim: @\n", "is no YAML in line 1: "),
        ("- a\n- b\n", "must have a rule on each line"),
        ("just words", "must have a rule on each line"),
        ('"tracker:claim": 7\n', "rule tracker:claim must be a text"),
        ('"tracker:claim": [["role:admin"]]\n', "rule tracker:claim must be a text"),
        ('7: "@"\n', "rule 7 must be a text"),
        ('"tracker:clam": "role:x"\n', "there is no rule tracker:clam: did you mean tracker:claim?"),
        ('"tracker:zzzzzzz": "role:x"\n', "there is no rule tracker:zzzzzzz: known are tracker:read, "),
        ('"tracker:claim": "admin"\n', "rule tracker:claim cannot be understood: admin"),
        ('"tracker:claim": "role:a role:b"\n', "rule tracker:claim cannot be understood: role:a role:b"),
        ('"tracker:claim": "(role:a"\n', "rule tracker:claim cannot be understood: (role:a"),
        ('"tracker:claim": "rule:nobody"\n', "reference a rule that is not defined"),
        ('"tracker:claim": "rule:a"\na: "rule:a"\n', "cyclical reference"),
        ('"tracker:claim": "role:a or not (http://example.org/ or @)"\n', "asks another server"),
        ('mine: "https://example.org/%(method)s"\n', "rule mine asks another server"),
        ('"tracker:claim\\x1b": "@"\n', "there is no rule tracker:claim"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file(
    tmp_path: Path, text: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as wrong:
        read(tmp_path, text)
    sentence = str(wrong.value)
    assert sentence.startswith(f"[oslo_policy] policy_file {tmp_path / 'policy.yaml'}")
    assert said in sentence
    assert sentence.isprintable()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_is_no_readable_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"policy\.yaml cannot be read: Is a directory"):
        read_policy_file(configuration(tmp_path))
    (tmp_path / "policy.yaml").rmdir()
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe: 1")
    with pytest.raises(ConfigurationError, match=r"policy\.yaml cannot be read: .*utf-8"):
        read_policy_file(configuration(tmp_path))
