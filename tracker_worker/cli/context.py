# SPDX-License-Identifier: Apache-2.0
"""The configuration of a subcommand, its logging, and its failures as one sentence on stderr."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn

import click
from oslo_config import cfg

from tracker_worker.cli.failures import CommandFailed, asks_for_json, document, sentence
from tracker_worker.cli.mistakes import explain, explain_text
from tracker_worker.cli.output import has_begun, wants_json
from tracker_worker.conf import register_opts, register_own_opts
from tracker_worker.conf.reading import check_values
from tracker_worker.errors import ConfigurationError, TrackerError

PROJECT = "tracker-worker"
__all__ = ["PROJECT", "CommandFailed", "Commands", "Settings", "example", "fail", "keep_logs_quiet", "start_logging"]
_ARGUMENTS = "tracker_worker.arguments"


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the subcommand: configuration files and directories. ``warnings`` holds what oslo.config has said
    about them, until there is a log."""

    config_files: tuple[str, ...]
    config_dirs: tuple[str, ...]
    warnings: list[logging.LogRecord] = field(default_factory=list, compare=False)

    def load(self, *, messaging: bool = True, **overrides: Any) -> cfg.ConfigOpts:
        """Read the configuration from files, directories and environment; ``group__option=value`` overrides win.

        Without ``messaging`` it has only this project's own options, not those of oslo.messaging and oslo.log: importing
        these libraries takes longer than most subcommands take to run.

        Raises ConfigurationError: a file cannot be read, or an option has a bad value.
        """
        conf = cfg.ConfigOpts()
        if messaging:
            _register_all(conf)
        else:
            register_own_opts(conf)
        args = [f"--config-file={name}" for name in self.config_files]
        args += [f"--config-dir={name}" for name in self.config_dirs]
        said = io.StringIO()
        try:
            with _kept(self.warnings), redirect_stderr(said):
                conf(
                    args,
                    project=PROJECT,
                    version=version(PROJECT),
                    default_config_files=None if not args else [],
                    default_config_dirs=None if not args else [],
                )
                for name, value in overrides.items():
                    group, _, option = name.rpartition("__")
                    conf.set_override(option, value, group=group or None)
                check_values(conf)
        except SystemExit as error:  # oslo.config has said why on stderr
            raise ConfigurationError(explain_text(said.getvalue())) from error
        except (cfg.Error, OSError, ValueError) as error:
            raise ConfigurationError(explain(error, self.config_files, self.config_dirs)) from error
        return conf


@contextmanager
def _kept(records: list[logging.LogRecord]) -> Iterator[None]:
    """Keep what oslo.config logs in the block: before logging is started it would go to stderr, beside the one sentence."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, keeper = logging.getLogger("oslo_config"), Keeper()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(keeper)
    try:
        yield
    finally:
        logger.removeHandler(keeper)
        logger.propagate = propagated


def _register_all(conf: cfg.ConfigOpts) -> None:
    import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

    # isort: split
    from oslo_log import log, versionutils

    register_opts(conf)
    log.register_options(conf)
    conf.register_opts(versionutils.deprecated_opts)
    conf.set_default("default_log_levels", [*conf.default_log_levels, "amqp=WARN", "alembic=WARN"])


def start_logging(conf: cfg.ConfigOpts, warnings: Sequence[logging.LogRecord] = ()) -> None:
    """Start logging as the options of oslo.log say; by default to stderr. ``warnings`` are logged first.

    Raises ConfigurationError: an option of oslo.log, or the file that it names, is unusable.
    """
    from tracker_worker.cli import logs

    logs.start(conf, PROJECT, version(PROJECT))
    logs.replay(warnings)


def keep_logs_quiet(conf: cfg.ConfigOpts) -> None:
    """Show log lines only with ``[DEFAULT] debug``, for subcommands that report failures themselves."""
    if conf.debug:
        start_logging(conf)
    else:
        # Without any handler Python's logging writes warnings to stderr, and libraries have added one that does so, too.
        root = logging.getLogger()
        root.addHandler(logging.NullHandler())
        for handler in [
            each for each in root.handlers if type(each) is logging.StreamHandler and each.stream is sys.stderr
        ]:
            root.removeHandler(handler)


def fail(error: Exception | str, code: int = 1) -> NoReturn:
    """Print one sentence on stderr and exit."""
    click.echo(f"{PROJECT}: {sentence(error)}", err=True)
    sys.exit(code)


class Commands(click.Group):
    """A group of subcommands, listed in the order of their definition.

    A subcommand that is refused or fails ends with one sentence on stderr and exit code 1, and with --format json also with a
    JSON document on stdout, unless it has begun to print its result there.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        arguments = list(args)  # the parser takes them out of its list
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if parent is None and asks_for_json(arguments):
                click.echo(document(error))
            raise
        context.meta.setdefault(_ARGUMENTS, arguments)
        return context

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.parent is not None:
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except (ConfigurationError, TrackerError, CommandFailed) as error:
            _tell(error, ctx)
            fail(error)
        except (Exception, KeyboardInterrupt) as error:
            _tell(error, ctx)
            raise


def _tell(error: BaseException, ctx: click.Context) -> None:
    """Print the document of an error on stdout, if the command was to print JSON and has not begun yet."""
    if wants_json(ctx.meta, otherwise=asks_for_json(ctx.meta[_ARGUMENTS])) and not has_begun(ctx.meta):
        click.echo(document(error))


def example(*lines: str) -> str:
    """The ``epilog`` of a command's help: command lines, without the name of the program. A line that begins with a blank goes
    on with the one before; one with a ``|`` has several programs, with their names."""
    shown = [f"  {line}" if line.startswith(" ") or "|" in line else f"  {PROJECT} {line}" for line in lines]
    return "\n".join(["\b", "Example:", *shown])
