# SPDX-License-Identifier: Apache-2.0
"""Mistakes in a configuration: each is one sentence with the option or the file, and without a piece of a secret."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from oslo_context import context

from tests.unit.cli.test_sample import SAMPLE
from tracker_worker.cli.context import Settings, start_logging
from tracker_worker.conf.names import check_names
from tracker_worker.conf.tracker import state_directory
from tracker_worker.errors import ConfigurationError

# Options that take any text; what the text names is checked where it is used.
FREE = {
    ("DEFAULT", "transport_url"),
    ("DEFAULT", "control_exchange"),
    ("DEFAULT", "log_config_append"),
    ("DEFAULT", "log_date_format"),
    ("bus", "reply_queue_prefixes"),
    ("DEFAULT", "log_file"),
    ("DEFAULT", "log_dir"),
    ("DEFAULT", "syslog_log_facility"),
    ("DEFAULT", "logging_context_format_string"),
    ("DEFAULT", "logging_default_format_string"),
    ("DEFAULT", "logging_debug_format_suffix"),
    ("DEFAULT", "logging_exception_prefix"),
    ("DEFAULT", "logging_user_identity_format"),
    ("DEFAULT", "default_log_levels"),
    ("DEFAULT", "instance_format"),
    ("DEFAULT", "instance_uuid_format"),
    ("tracker", "state_path"),
    ("tracker", "hosts"),
    ("tracker", "topic"),
    ("tracker", "inventory_driver"),
    ("inventory", "static_file"),
    ("oslo_policy", "policy_file"),
    ("health", "listen"),
    ("bus", "dead_letter_queue"),
    ("database", "connection"),
    ("notifications", "topics"),
    ("oslo_messaging_rabbit", "ssl_version"),
    ("oslo_messaging_rabbit", "ssl_key_file"),
    ("oslo_messaging_rabbit", "ssl_cert_file"),
    ("oslo_messaging_rabbit", "ssl_ca_file"),
    ("oslo_messaging_rabbit", "kombu_compression"),
    ("oslo_messaging_rabbit", "hostname"),
    ("oslo_messaging_rabbit", "processname"),
}


def options() -> Iterator[tuple[str, str]]:
    group = ""
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            group = header[1]
        if option := re.match(r"#(\w+) = ", line):
            yield group, option[1]


def load(directory: Path, text: str) -> cfg.ConfigOpts:
    configuration = directory / "worker.conf"
    configuration.write_text(text, encoding="utf-8")
    return Settings((str(configuration),), ()).load()


def sentence(call: Callable[[], Any]) -> str:
    """The one line with which the call is refused."""
    with pytest.raises(ConfigurationError) as refused:
        call()
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    assert "LocationInfo" not in text
    return text


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What a test does to the loggers is undone, and no request is under way: with one, records have another format."""
    if context.get_current() is not None:
        del context._request_store.context
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {
        name: logger.level
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers = handlers
    root.setLevel(level)
    for name, kept in levels.items():
        logging.getLogger(name).setLevel(kept)


@pytest.mark.parametrize(("group", "option"), sorted(set(options()) - FREE))
def test_an_option_with_nonsense_is_named_with_its_file(tmp_path: Path, group: str, option: str) -> None:
    text = sentence(lambda: load(tmp_path, f"[{group}]\n{option} = nonsense\n"))

    assert option in text
    assert str(tmp_path / "worker.conf") in text or "nonsense" in text


def test_a_wrong_option_of_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_BUS__PREFETCH", "many")

    assert "the value of prefetch in OS_BUS__PREFETCH is not valid" in sentence(lambda: load(tmp_path, ""))


def test_a_deprecated_option_says_so_in_the_log_and_not_beside_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = tmp_path / "worker.conf"
    configuration.write_text("[oslo_messaging_rabbit]\nheartbeat_rate = 3\nrabbit_ha_queues = x\n", encoding="utf-8")
    settings = Settings((str(configuration),), ())

    assert "rabbit_ha_queues" in sentence(settings.load)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(bytes(range(256))), "no text in UTF-8"),
        (lambda path: path.write_text("[tracker]\n", encoding="utf-16"), "no text in UTF-8"),
        (lambda path: path.write_text("hosts = h1\n"), "Section must be started"),
        (lambda path: path.write_text("[DEFAULT]\ntransport_url secret 'x'\n"), "No ':' or '=' found"),
        (lambda path: path.write_text("[DEFAULT]\n= rabbit://u:secret@h/\n"), "Key cannot be empty"),
        (lambda path: path.write_text("[DEFAULT secret\n"), "Invalid section (must end with ])"),
        (lambda path: path.write_text("  secret\n"), "Unexpected continuation line"),
    ],
    ids=["directory", "binary", "UTF-16", "no section", "no assignment", "no key", "half a section", "indented"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_configuration_file_that_cannot_be_read_is_named(
    tmp_path: Path, spoil: Callable[[Path], Any], named: str, kind: str
) -> None:
    path = tmp_path / "conf.d" / "worker.conf"
    path.parent.mkdir()
    spoil(path)
    settings = Settings((str(path),), ()) if kind == "file" else Settings((), (str(path.parent),))

    text = sentence(settings.load)

    assert str(path) in text
    assert named in text
    assert "secret" not in text


def test_a_file_or_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")

    assert missing in sentence(Settings((missing,), ()).load)
    assert missing in sentence(Settings((), (missing,)).load)


def test_a_dollar_that_names_no_option_shows_nothing_of_the_value(tmp_path: Path) -> None:
    text = sentence(lambda: load(tmp_path, "[tracker]\ntopic = pa$secret\n"))

    assert "write $$ for $" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("log_file = /no/such/w.log", ["log_file", "/no/such/w.log"]),
        ("log_dir = /no/such", ["log_dir", "/no/such"]),
        ("log_file = .", ["log_file", "directory"]),
        ("log_config_append = /no/such.ini", ["log_config_append", "/no/such.ini"]),
        ("log_config_append = {bad}", ["log_config_append", "bad.ini"]),
        ("log_config_append = {unloadable}", ["log_config_append", "unloadable.ini"]),
        ("log_config_append = {binary}", ["log_config_append", "binary.ini"]),
        ("use_journal = true\nsyslog_log_facility = nosuch", ["use_journal", "nosuch"]),
        ("use_syslog = true\nsyslog_log_facility = nosuch", ["syslog_log_facility", "nosuch"]),
        ("default_log_levels = amqp", ["default_log_levels", "amqp"]),
        ("default_log_levels = amqp=LOUD", ["default_log_levels", "LOUD"]),
        ("logging_default_format_string = %(message", ["logging_default_format_string"]),
        ("logging_default_format_string = %(nosuch)s", ["logging_default_format_string", "nosuch"]),
        ("logging_context_format_string = %(message)y", ["logging_context_format_string"]),
        ("logging_exception_prefix = 100%", ["logging_exception_prefix"]),
        ("instance_format = %s %s", ["instance_format"]),
    ],
)
@pytest.mark.usefixtures("own_logging")
def test_a_log_that_cannot_be_started_names_the_option(tmp_path: Path, options: str, named: list[str]) -> None:
    files = {name: tmp_path / f"{name}.ini" for name in ("bad", "unloadable", "binary")}
    files["bad"].write_text("nothing\n", encoding="utf-8")
    files["unloadable"].write_text(
        "[loggers]\nkeys=root\n[logger_root]\nhandlers=h\n[handlers]\nkeys=h\n"
        "[handler_h]\nclass=no.such.Handler\nargs=()\n[formatters]\nkeys=\n",
        encoding="utf-8",
    )
    files["binary"].write_bytes(b"\xff\xfe")
    conf = load(tmp_path, "[DEFAULT]\n" + options.format(**files) + "\n")

    text = sentence(lambda: start_logging(conf))

    for word in named:
        assert word in text


@pytest.mark.usefixtures("own_logging")
def test_a_log_directory_gets_a_file_of_the_program_s_name(tmp_path: Path) -> None:
    start_logging(load(tmp_path, f"[DEFAULT]\nlog_dir = {tmp_path}\n"))

    assert (tmp_path / "tracker-worker.log").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("[tracker]\nhosts =", "[tracker] hosts names no host"),
        ("[tracker]\nhosts = h1,,h2", "[tracker] hosts names no host"),
        ("[tracker]\nhosts = h1 h2", "[tracker] hosts has a space in 'h1 h2'"),
        ("[tracker]\nhosts = h1..example", "[tracker] hosts has 'h1..example'"),
        ("[tracker]\nhosts = .h1", "[tracker] hosts has '.h1'"),
        ("[tracker]\nhosts = h1.", "[tracker] hosts has 'h1.'"),
        ("[tracker]\nhosts = *", "[tracker] hosts has '*'"),
        ("[tracker]\nhosts = h\x07", "[tracker] hosts has a character that cannot be printed"),
        (f"[tracker]\nhosts = {'h' * 248}", "[tracker] hosts has a name of 248 bytes, at most 247"),
        (f"[tracker]\nhosts = {'é' * 124}", "[tracker] hosts has a name of 248 bytes"),
        ("[tracker]\ntopic =", "[tracker] topic is empty"),
        ("[tracker]\ntopic = #", "[tracker] topic has '#'"),
        (f"[tracker]\ntopic = {'t' * 249}", "[tracker] topic has a name of 249 bytes"),
        ("[DEFAULT]\ncontrol_exchange =", "[DEFAULT] control_exchange is empty"),
        (f"[DEFAULT]\ncontrol_exchange = {'x' * 256}", "[DEFAULT] control_exchange has a name of 256 bytes"),
        ("[bus]\ndead_letter_queue =", "[bus] dead_letter_queue is empty"),
        ("[bus]\ndead_letter_queue = tracker", "is the queue of [tracker] topic"),
        ("[bus]\ndead_letter_queue = notifications.info", "is a queue of [notifications] topics"),
        ("[notifications]\ntopics = a, a", "[notifications] topics names a twice"),
        ("[notifications]\ntopics = a,, b", "[notifications] topics is empty"),
        ("[notifications]\ntopics = a.*", "[notifications] topics has 'a.*'"),
        ("[notifications]\ncompute_topics = a.*", "[notifications] compute_topics has 'a.*'"),
        ("[notifications]\ncompute_topics = a, a", "[notifications] compute_topics names a twice"),
        (
            "[notifications]\ncompute_topics = notifications",
            "[notifications] topics and compute_topics both name notif",
        ),
        (
            "[notifications]\ncompute_topics = a\ncloudevents_topics = b, a",
            "[notifications] compute_topics and cloudevents_topics both name a",
        ),
        (
            "[bus]\ndead_letter_queue = events.info\n[notifications]\ncloudevents_topics = events",
            "is a queue of [notifications] cloudevents_topics",
        ),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, options: str, named: str) -> None:
    conf = load(tmp_path, options + "\n")

    assert named in sentence(lambda: check_names(conf))


@pytest.mark.parametrize(
    "options",
    [
        "",
        "[tracker]\nhosts = h1.example.org, h-2, h_3",
        "[notifications]\ntopics =",
        "[notifications]\ncompute_topics = a",
    ],
)
def test_usual_names_are_accepted(tmp_path: Path, options: str) -> None:
    check_names(load(tmp_path, options + "\n"))


@pytest.mark.parametrize(
    ("options", "named"),
    [("", "no home directory"), ("state_path =", "is empty"), ("state_path = ~nobody2/x", "~nobody2")],
)
def test_a_state_directory_that_is_not_known_names_the_option(tmp_path: Path, options: str, named: str) -> None:
    conf = load(tmp_path, f"[tracker]\n{options}\n")
    conf.set_default("state_path", None, group="tracker")

    text = sentence(lambda: state_directory(conf))

    assert "[tracker] state_path" in text
    assert named in text
