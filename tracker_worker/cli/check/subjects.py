# SPDX-License-Identifier: Apache-2.0
"""What the checks look at: a configuration, a broker that answers, a database that answers."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from amqp.exceptions import ChannelError, NotFound
from oslo_config import cfg

from tracker_worker.bus.settings import BrokerSettings, address
from tracker_worker.cli.context import PROJECT, Settings
from tracker_worker.store.sql.store import SQLStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """``max_outbox_age``: seconds that a notification may wait."""

    settings: Settings
    conf: cfg.ConfigOpts
    broker: BrokerSettings
    max_outbox_age: int

    def command(self, *arguments: str) -> str:
        """A command of this program with the configuration that is checked, for a shell."""
        places = [f"--config-file={name}" for name in self.settings.config_files]
        places += [f"--config-dir={name}" for name in self.settings.config_dirs]
        return shlex.join([PROJECT, *places, *arguments])

    @property
    def serve(self) -> str:
        return self.command("serve")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the broker says about a queue that exists."""

    messages: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Broker:
    """A connection that is logged in at ``url``. It belongs to one thread."""

    installation: Installation
    connection: Any
    url: str

    @property
    def settings(self) -> BrokerSettings:
        return self.installation.broker

    @property
    def user(self) -> str:
        return unquote(urlsplit(self.url).username or "")

    @property
    def vhost(self) -> str:
        return unquote(urlsplit(self.url).path[1:])

    @property
    def address(self) -> str:
        return address(self.url)

    def refusal(self, request: Callable[[Any], object]) -> ChannelError | None:
        """Make a request on a channel of its own. Returns why the broker refuses it, or None."""
        return refusal(self.connection, request)

    def count(self, queue: str) -> Counts | None:
        """Look at a queue, which needs no right; None: it does not exist, or its node is down."""
        found: list[Any] = []
        refused = self.refusal(lambda channel: found.append(channel.queue_declare(queue, passive=True)))
        if isinstance(refused, NotFound):
            return None
        if refused is not None:
            raise refused
        return Counts(int(found[0].message_count), int(found[0].consumer_count))

    def has_exchange(self, name: str) -> bool:
        """Whether an exchange exists; to look needs no right."""
        return self.refusal(lambda channel: channel.exchange_declare(name, "topic", passive=True)) is None

    def ctl(self, *arguments: str) -> str:
        """A command of the broker's administrator about this virtual host, for a shell."""
        command, *rest = arguments
        return shlex.join(["rabbitmqctl", command, "-p", self.vhost, *rest])


def refusal(connection: Any, request: Callable[[Any], object]) -> ChannelError | None:
    """Make a request on a channel of its own. Returns why the broker refuses it, or None."""
    channel = connection.channel()
    try:
        request(channel)
    except ChannelError as error:
        channel.close()  # the broker has closed it, and py-amqp has opened another one under its number
        return error
    channel.close()
    return None


@dataclass(frozen=True, slots=True)
class Database:
    """A database that exists. ``store`` can be read only where the schema is what this release needs."""

    installation: Installation
    store: SQLStore

    @property
    def engine(self) -> sa.Engine:
        return self.store.engine
