# SPDX-License-Identifier: Apache-2.0
"""What every subcommand needs: the configuration, and failures as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from oslo_config import cfg
from oslo_log import log

from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError, TrackerError

PROJECT = "tracker-worker"


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in front of the subcommand."""

    config_files: tuple[str, ...]
    config_dirs: tuple[str, ...]

    def load(self, **overrides: Any) -> cfg.ConfigOpts:
        """The configuration: files, directories, environment, and ``group__option=value`` overrides on top.

        Raises ConfigurationError: a file that cannot be read, an option with a bad value.
        """
        conf = cfg.ConfigOpts()
        register_opts(conf)
        log.register_options(conf)
        conf.set_default("default_log_levels", [*conf.default_log_levels, "amqp=WARN", "alembic=WARN"])
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


def _check(conf: cfg.ConfigOpts) -> None:
    """Read every option once: oslo.config finds a bad value only when it is read."""
    for name in list(conf):
        value = conf[name]
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            for option in value:
                getattr(value, option)


def start_logging(conf: cfg.ConfigOpts) -> None:
    """To stderr, unless the options of oslo.log say otherwise."""
    log.setup(conf, PROJECT, version(PROJECT))


def fail(error: Exception | str, code: int = 1) -> None:
    """One sentence on stderr, and out."""
    text = " ".join(str(error).split())
    click.echo(f"{PROJECT}: {text}", err=True)
    sys.exit(code)


class Commands(click.Group):
    """A group whose subcommands end with one sentence and exit code 1 when they are refused or fail."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigurationError, TrackerError) as error:
            return fail(error)


def existing(paths: Sequence[str]) -> tuple[str, ...]:
    """Raises ConfigurationError naming the first that is not there or cannot be read."""
    for name in paths:
        if not Path(name).exists():
            raise ConfigurationError(f"the configuration {name} does not exist")
    return tuple(paths)
