# SPDX-License-Identifier: Apache-2.0
"""Files and directories that others on this machine may read or write."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa
from oslo_config import cfg

from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.options import known
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.conf.unknown import configuration_files, parsed
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.sql.location import configured_url, sqlite_path

_READ, _WRITE, _ANY = stat.S_IROTH, stat.S_IWOTH, stat.S_IRWXO
_PASSWORD_IN_URL = re.compile(r"://[^/?#]*:[^@]+@|[?&]password=", re.IGNORECASE)


def check_configuration_modes(installation: Installation) -> Iterator[Problem]:
    """No file with a password can be read by everybody."""
    options = known(installation.conf)
    for file in configuration_files(installation.conf):
        mode = _mode(file)
        if mode is None or not mode & _ANY:
            continue
        if mode & _WRITE:
            yield error(f"the configuration file {_shown(file, mode)} can be written by everybody", _close(file))
        elif secrets := list(_secrets(file, options)):
            yield error(
                f"the configuration file {_shown(file, mode)} can be read by everybody, and has a password in "
                f"{', '.join(secrets)}",
                _close(file),
            )
    key = installation.conf.oslo_messaging_rabbit.ssl_key_file
    if key and (mode := _mode(Path(key))) is not None and mode & _ANY:
        yield error(
            f"the private key {_shown(Path(key), mode)} of [oslo_messaging_rabbit] ssl_key_file can be read by everybody",
            _close(Path(key)),
        )


def _secrets(file: Path, known: Mapping[str, Mapping[str, cfg.Opt]]) -> Iterator[str]:
    """The options with a password that the file has."""
    groups = {name.lower(): options for name, options in known.items()}
    for group, options in parsed(file).items():
        for name, values in options.items():
            option = groups.get(group.lower(), {}).get(name)
            if option is not None and option.secret and any(map(_has_password, values)):
                yield f"[{group}] {name}"


def _has_password(value: str) -> bool:
    return bool(_PASSWORD_IN_URL.search(value)) if ":" in value and "/" in value else bool(value)


def check_state_modes(installation: Installation) -> Iterator[Problem]:
    """The database in a file is closed to everybody but its account and group."""
    conf = installation.conf
    try:
        url = sa.make_url(configured_url(conf))
        path = sqlite_path(url) if url.get_backend_name() == "sqlite" else None
    except (sa.exc.ArgumentError, ValueError, ConfigurationError):
        return  # the check of the database says so
    if path is None:
        return
    option = "[database] connection" if conf.database.connection else "[tracker] state_path"
    directory = path.parent
    mode = _mode(directory)
    if mode is not None and mode & _WRITE and not mode & stat.S_ISVTX:
        yield error(
            f"everybody can replace files in {_shown(directory, mode)}, the directory of {option}", _close(directory)
        )
    elif mode is not None and mode & _ANY and not conf.database.connection:
        yield warning(
            f"everybody can look into {_shown(directory, mode)}, the directory of {option}", _close(directory)
        )
    files = [Path(f"{path}{end}") for end in ("", "-wal", "-shm")]
    modes = {file: mode for file in files if (mode := _mode(file)) is not None and mode & _ANY}
    if modes:
        find = error if any(mode & _WRITE for mode in modes.values()) else warning
        shown = ", ".join(_shown(file, mode) for file, mode in modes.items())
        verb = "changed" if find is error else "read"
        yield find(f"the database of {option} can be {verb} by everybody: {shown}", _close(*modes))


def _mode(path: Path) -> int | None:
    """The permissions of a file; None: it does not exist, or is in a directory that this account may not enter."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def _shown(path: Path, mode: int) -> str:
    return f"{path} (mode {mode:04o})"


def _close(*paths: Path) -> str:
    return shlex.join(["chmod", "o-rwx", *map(str, paths)])
