# SPDX-License-Identifier: Apache-2.0
"""Find the programs of the servers, of the browser and of systemd that tests use, and install them if they are missing.

A test that needs a server gets a real server or the session fails; it is never skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

BINDEP = Path(__file__).parents[2] / "bindep.txt"

# Distributions keep the server's scripts off the PATH of ordinary users; Debian's wrappers in /usr/sbin require root.
_RABBITMQ_DIRECTORIES = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/sbin")
_RABBITMQ_PROGRAMS = ("rabbitmq-server", "rabbitmqctl", "epmd")
_OTHER_PROGRAMS = ("openssl", "systemd-analyze", "prometheus", "promtool", "chromium", "chromedriver")
_POSTGRESQL_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_SERVICES = ("rabbitmq-server", "postgresql", "prometheus")


def find_rabbitmq(program: str) -> str | None:
    """The path of a program of RabbitMQ or Erlang, or None."""
    return shutil.which(program, path=os.pathsep.join((*_RABBITMQ_DIRECTORIES, os.environ.get("PATH", os.defpath))))


def find_postgresql() -> Path | None:
    """The directory of a PostgreSQL server's programs: pg_config's directory, or the newest version installed by Debian."""
    candidates: list[Path] = []
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(answer.stdout.strip()))
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(versions, key=lambda path: _version(path.parent.name), reverse=True)
    # pg_config alone proves nothing: it comes with the client library's headers.
    return next((path for path in candidates if all((path / name).exists() for name in _POSTGRESQL_PROGRAMS)), None)


def missing() -> list[str]:
    """The names of the missing programs, for an error message."""
    lacks = [name for name in _RABBITMQ_PROGRAMS if find_rabbitmq(name) is None]
    lacks += [name for name in _OTHER_PROGRAMS if shutil.which(name) is None]
    if find_postgresql() is None:
        lacks.append("PostgreSQL's server programs")
    return lacks


def packages(bindep: Path = BINDEP) -> list[str]:
    """The package names that bindep.txt lists for Debian."""
    lines = (line.partition("#")[0].strip() for line in bindep.read_text(encoding="utf-8").splitlines())
    return [line.split()[0] for line in lines if "platform:dpkg" in line]


def ensure_binaries() -> None:
    """Return when every program exists; install the packages first if this process may.

    Raises: pytest's Exit, which ends the session with status 1, when programs are missing and cannot be installed.
    """
    lacks = missing()
    if not lacks:
        return
    names = packages()
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.exit(
            _advice(lacks, names, "they can only be installed for you by a run as root on Debian"), returncode=1
        )
    with Path(tempfile.gettempdir(), "tracker-worker-tests.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a run installs while its other processes wait
        problem = _install(names) if missing() else ""
    lacks = missing()
    if problem or lacks:
        pytest.exit(_advice(lacks or names, names, f"apt-get did not install them: {problem}"), returncode=1)


def _install(names: list[str]) -> str:
    """Install with apt-get and stop the services that the packages started. Return the error text, or '' for success."""
    were_running = {service for service in _SERVICES if _is_running(service)}
    # A package starts its service once it is installed. RUNLEVEL=1 (single user) prevents that with System V scripts.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update"],
        ["apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *names],
    ):
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            return f"{' '.join(command)} returned {done.returncode}\n{done.stdout[-2000:]}"
    for service in _SERVICES:
        if service not in were_running and _is_running(service):
            subprocess.run(["service", service, "stop"], stdin=subprocess.DEVNULL, capture_output=True)
    return ""


def _is_running(service: str) -> bool:
    if shutil.which("service") is None:
        return False
    status = subprocess.run(["service", service, "status"], stdin=subprocess.DEVNULL, capture_output=True)
    return status.returncode == 0


def _advice(lacks: list[str], names: list[str], why: str) -> str:
    return (
        f"These tests need real servers, and {', '.join(lacks)} cannot be found ({why}).\n"
        f"Install the packages that bindep.txt lists: {' '.join(names)}"
    )


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdigit())
