# SPDX-License-Identifier: Apache-2.0
"""The configuration of a subcommand, its logging, and its failures as one sentence on stderr."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import click
from oslo_config import cfg

from tracker_worker.conf import list_opts, register_opts
from tracker_worker.conf.reading import check_values, without_contents
from tracker_worker.errors import ConfigurationError, TrackerError

PROJECT = "tracker-worker"


class CommandFailed(Exception):
    """A subcommand was refused or has failed. The text is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the subcommand: configuration files and directories."""

    config_files: tuple[str, ...]
    config_dirs: tuple[str, ...]

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
            for group, options in list_opts():
                conf.register_opts(options, group=group)
        args = [f"--config-file={name}" for name in self.config_files]
        args += [f"--config-dir={name}" for name in self.config_dirs]
        try:
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
        except (cfg.Error, ValueError) as error:
            raise ConfigurationError(without_contents(error)) from error
        return conf


def _register_all(conf: cfg.ConfigOpts) -> None:
    import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

    # isort: split
    from oslo_log import log

    register_opts(conf)
    log.register_options(conf)
    conf.set_default("default_log_levels", [*conf.default_log_levels, "amqp=WARN", "alembic=WARN"])


def start_logging(conf: cfg.ConfigOpts) -> None:
    """Start logging as the options of oslo.log say; by default to stderr, because stdout is for what a command prints."""
    from oslo_log import log

    log.setup(conf, PROJECT, version(PROJECT))
    for handler in logging.getLogger().handlers:
        # oslo.log logs to stdout if its options name no place.
        if not conf.log_config_append and isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)


def keep_logs_quiet(conf: cfg.ConfigOpts) -> None:
    """Show log lines only with ``[DEFAULT] debug``, for subcommands that report failures themselves."""
    if conf.debug:
        start_logging(conf)
    else:
        # Without any handler Python's logging writes warnings to stderr.
        logging.getLogger().addHandler(logging.NullHandler())


def fail(error: Exception | str, code: int = 1) -> NoReturn:
    """Print one sentence on stderr and exit."""
    text = " ".join(str(error).split())
    click.echo(f"{PROJECT}: {text}", err=True)
    sys.exit(code)


class Commands(click.Group):
    """A group of subcommands, listed in the order of their definition.

    A subcommand that is refused or fails ends with one sentence on stderr and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigurationError, TrackerError, CommandFailed) as error:
            fail(error)
