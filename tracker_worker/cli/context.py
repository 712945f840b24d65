# SPDX-License-Identifier: Apache-2.0
"""What every subcommand needs: the configuration, and failures as one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import click
from oslo_config import cfg

from tracker_worker.conf import list_opts, register_opts
from tracker_worker.errors import ConfigurationError, TrackerError

PROJECT = "tracker-worker"


class CommandFailed(Exception):
    """A subcommand was refused or cannot do what it was asked: one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in front of the subcommand."""

    config_files: tuple[str, ...]
    config_dirs: tuple[str, ...]

    def load(self, *, messaging: bool = True, **overrides: Any) -> cfg.ConfigOpts:
        """The configuration: files, directories, environment, and ``group__option=value`` overrides on top.

        Without ``messaging`` it has our own options only, those of oslo.messaging and oslo.log are left unread: importing
        these libraries takes longer than what most subcommands do.

        Raises ConfigurationError: a file that cannot be read, an option with a bad value.
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
            _check(conf)
        except (cfg.Error, ValueError) as error:
            raise ConfigurationError(" ".join(str(error).split())) from error
        return conf


def _register_all(conf: cfg.ConfigOpts) -> None:
    import tracker_worker.cli.threading_backend  # noqa: F401 before oslo.messaging: see there

    # isort: split
    from oslo_log import log

    register_opts(conf)
    log.register_options(conf)
    conf.set_default("default_log_levels", [*conf.default_log_levels, "amqp=WARN", "alembic=WARN"])


def _check(conf: cfg.ConfigOpts) -> None:
    """Read every option once: oslo.config finds a bad value only when it is read."""
    for name in list(conf):
        value = conf[name]
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            for option in value:
                getattr(value, option)


def start_logging(conf: cfg.ConfigOpts) -> None:
    """To stderr, unless the options of oslo.log say otherwise."""
    from oslo_log import log

    log.setup(conf, PROJECT, version(PROJECT))


def keep_logs_quiet(conf: cfg.ConfigOpts) -> None:
    """For subcommands that say themselves what goes wrong: log lines appear with ``[DEFAULT] debug`` only."""
    if conf.debug:
        start_logging(conf)
    else:
        # Without any handler Python writes warnings to stderr.
        logging.getLogger().addHandler(logging.NullHandler())


def fail(error: Exception | str, code: int = 1) -> NoReturn:
    """One sentence on stderr, and out."""
    text = " ".join(str(error).split())
    click.echo(f"{PROJECT}: {text}", err=True)
    sys.exit(code)


class Commands(click.Group):
    """A group whose subcommands end with one sentence and exit code 1 when they are refused or fail; they are listed as
    they were defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigurationError, TrackerError, CommandFailed) as error:
            fail(error)


def existing(paths: Sequence[str]) -> tuple[str, ...]:
    """Raises ConfigurationError naming the first that is not there or cannot be read."""
    for name in paths:
        if not Path(name).exists():
            raise ConfigurationError(f"the configuration {name} does not exist")
    return tuple(paths)
