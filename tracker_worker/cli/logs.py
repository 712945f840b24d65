# SPDX-License-Identifier: Apache-2.0
"""The start of oslo.log, whose mistakes in the configuration become one sentence each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from oslo_config import cfg
from oslo_log import log

from tracker_worker.errors import ConfigurationError

_FORMATS = (
    "logging_context_format_string",
    "logging_default_format_string",
    "logging_debug_format_suffix",
    "logging_exception_prefix",
    "logging_user_identity_format",
    "instance_format",
    "instance_uuid_format",
)
# The attributes of a record without any that its caller has added.
_PLAIN = len(logging.LogRecord("", 0, "", 0, "", None, None).__dict__)


def start(conf: cfg.ConfigOpts, project: str, version: str) -> None:
    """Start logging as the options of oslo.log say, and to stderr where they name no place.

    Raises ConfigurationError: an option, or the file that it names, is unusable.
    """
    _check_levels(conf)
    if conf.log_config_append:
        with _naming(f"log_config_append {conf.log_config_append}"):
            log.setup(conf, project, version)
        return
    _check_formats(conf)
    places = [name for name in ("log_dir", "log_file", "use_journal", "use_syslog") if conf[name]]
    if conf.use_syslog or conf.use_journal:
        places.append("syslog_log_facility")
    if conf.log_dir and not conf.log_file:
        # oslo.log would name the file after the program at the bottom of this thread's stack.
        conf.set_override("log_file", f"{project}.log")
    with _naming(", ".join(f"{name} {conf[name]}" for name in places) or "the options of oslo.log"):
        log.setup(conf, project, version)
    for handler in logging.getLogger().handlers:
        # oslo.log logs to stdout if its options name no place. stdout is for what a command prints.
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    _check_keys()
    for handler in logging.getLogger().handlers:
        if handler.formatter is not None:
            handler.setFormatter(SeriesFormatter(handler.formatter))


class SeriesFormatter(logging.Formatter):
    """Formats as ``inner`` does, and reuses what stands before the message for records that follow one another from one place
    within a millisecond. The decisions of a batch are such records, and oslo.log's formatter takes longer for one than its
    decision took. Belongs to one thread."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner
        self._series: tuple[object, ...] | None = None
        self._head = ""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.exc_text or record.stack_info or len(record.__dict__) != _PLAIN:
            return self._inner.format(record)
        message = record.getMessage()
        series = (
            record.lineno,
            record.msecs,
            int(record.created),
            record.levelno,
            record.name,
            record.thread,
            record.pathname,
        )
        if series == self._series:
            return self._head + message
        text = self._inner.format(record)
        ends = bool(message) and text.endswith(message) and text.count(message) == 1
        self._series, self._head = (series, text[: len(text) - len(message)]) if ends else (None, "")
        return text


@contextmanager
def _naming(options: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # An operating system's error names the file that it is about.
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"[DEFAULT] {options}: the log cannot be started: {reason}") from error


def _check_levels(conf: cfg.ConfigOpts) -> None:
    known = logging.getLevelNamesMapping()
    for pair in conf.default_log_levels:
        level = pair.partition("=")[2]
        if level not in known and not level.isdecimal():
            raise ConfigurationError(
                f"[DEFAULT] default_log_levels has {pair!r}; expected is <logger>=<level>, with a level of {', '.join(known)}"
            )


class _AnyKey(Mapping[str, int]):
    """Has every key: formats name keys that depend on the record."""

    def __getitem__(self, key: str) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _check_formats(conf: cfg.ConfigOpts) -> None:
    for name in _FORMATS:
        try:
            conf[name] % _AnyKey()
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"[DEFAULT] {name} is not a usable format: {error}") from error


def _check_keys() -> None:
    """Try the format of every record: the keys that it names must exist."""
    record = logging.LogRecord(__name__, logging.INFO, __file__, 0, "", None, None)
    for handler in logging.getLogger().handlers:
        try:
            handler.format(record)
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"[DEFAULT] logging_default_format_string is not a usable format: {error}"
            ) from error


def replay(records: Sequence[logging.LogRecord]) -> None:
    """Log what was said before the log was started."""
    for record in records:
        logging.getLogger(record.name).handle(record)
