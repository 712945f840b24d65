# SPDX-License-Identifier: Apache-2.0
"""How to reach the broker and how its exchanges and queues are named, from oslo.messaging's options and ours.

The options are read as stock clients read them: the query of the transport URL wins over [oslo_messaging_rabbit].
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import amqp
from oslo_config import cfg

from tracker_worker.bus.tls import tls_arguments
from tracker_worker.bus.transport_url import check_transport_url
from tracker_worker.conf.names import topic_options
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.conf.reading import check_logins, without_contents, wrong_dollar
from tracker_worker.errors import ConfigurationError
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.dialects.table import read_topics
from tracker_worker.oslo import opts, oslo_messaging

LOST = (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors)
"""What py-amqp raises when a connection or a channel is lost, or the broker refuses something."""

_GROUP = "oslo_messaging_rabbit"
# A half-open consuming connection stays the active consumer until the broker notices.
_MAX_HEARTBEAT_SECONDS = 15
# One address that swallows packets must not keep a worker from the next one for long.
_CONNECT_TIMEOUT_SECONDS = 2
_PORT = 5672
_MOST_NAME_BYTES = 255
_LOGIN_METHODS = ("PLAIN", "AMQPLAIN", "EXTERNAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What every program needs to reach the broker.

    ``urls`` are the broker's addresses, each with user and password. ``durable`` says how the clients of this cloud declare the
    control ``exchange``.
    """

    urls: tuple[str, ...]
    exchange: str
    topic: str
    durable: bool
    login_method: str
    heartbeat_seconds: int
    retry_start_seconds: float
    retry_step_seconds: float
    retry_max_seconds: float
    tls: dict[str, Any] | None

    def connection(self, url: str) -> amqp.Connection:
        """A py-amqp connection to one of ``urls``, which is not yet connected."""
        parts = urlsplit(url)
        # py-amqp would try the IPv6 address of this name first, which brokers seldom listen on.
        name = "127.0.0.1" if parts.hostname == "localhost" else str(parts.hostname)
        tls: bool | dict[str, Any] = False
        if self.tls is not None:
            tls = {**self.tls, "server_hostname": name} if "ca_certs" in self.tls else dict(self.tls) or True
        return amqp.Connection(
            host=f"[{name}]:{parts.port}" if ":" in name else f"{name}:{parts.port}",
            userid=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            virtual_host=unquote(parts.path[1:]),
            login_method=self.login_method,
            ssl=tls,
            heartbeat=self.heartbeat_seconds,
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            socket_settings={
                # py-amqp's default of one second ends a connection at every small stall of the network.
                socket.TCP_USER_TIMEOUT: self.heartbeat_seconds * 1000,
                # 0: the system's own. py-amqp would set what it reads, and Linux refuses to set more than 32767 (EINVAL),
                # which a connection over the loopback interface may have.
                socket.TCP_MAXSEG: 0,
            },
        )

    @property
    def virtual_host(self) -> str:
        """The name of the virtual host, which all ``urls`` share."""
        return unquote(urlsplit(self.urls[0]).path[1:])

    def agrees_with(self, other: ConnectionSettings) -> bool:
        """Whether everything but ``urls`` is the same."""
        names = [field.name for field in fields(ConnectionSettings) if field.name != "urls"]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def delays(self) -> Iterator[float]:
        """Seconds to wait after each round in which a broker refused the login."""
        delay = max(1.0, self.retry_start_seconds)
        while True:
            yield max(1.0, min(delay, self.retry_max_seconds))
            delay += max(0.0, self.retry_step_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings(ConnectionSettings):
    """What a worker needs beside that.

    ``durable`` and ``quorum`` also hold for the notification queues, which stock listeners declare too. With ``durable_only``
    they are durable, as the exchange is, because the broker takes no others. ``queue_type`` is that of the worker's own queues.
    ``notification_topics`` has the dialect of each topic.
    """

    queue_type: str
    prefetch: int
    max_unsettled_bytes: int
    dead_letter_queue: str
    notification_topics: Mapping[str, Dialect]
    auto_delete: bool
    quorum: bool
    durable_fanout: bool
    quorum_limits: dict[str, int]
    durable_only: bool = False

    @property
    def declares_durable(self) -> bool:
        """Whether the exchange and the notification queues are durable."""
        return self.durable or self.durable_only

    @property
    def dead_letter_lock(self) -> str:
        """The name of the exclusive queue of the command that uses the dead-letter queue."""
        return f"{self.dead_letter_queue}.operator"


def read_connection(conf: cfg.ConfigOpts) -> ConnectionSettings:
    """Settings from oslo.messaging's options and ``[tracker] topic`` alone.

    Raises ConfigurationError: the transport URL is unusable, or options contradict each other.
    """
    _, common = _common(conf)
    return ConnectionSettings(**common)


def read_settings(conf: cfg.ConfigOpts) -> BrokerSettings:
    """Settings for a worker. Raises ConfigurationError as ``read_connection``, where a host's queue would be the dead-letter
    queue, for a name that is too long, and for a topic that is named twice."""
    rabbit, common = _common(conf)
    for host in conf.tracker.hosts:
        if f"{conf.tracker.topic}.{host}" == conf.bus.dead_letter_queue:
            raise ConfigurationError(
                f"[bus] dead_letter_queue {conf.bus.dead_letter_queue} is the queue of host {host}"
            )
    _check_names(conf)
    limits = {
        "x-delivery-limit": rabbit.rabbit_quorum_delivery_limit,
        "x-max-in-memory-length": rabbit.rabbit_quorum_max_memory_length,
        "x-max-in-memory-bytes": rabbit.rabbit_quorum_max_memory_bytes,
    }
    return BrokerSettings(
        **common,
        queue_type=conf.bus.queue_type,
        prefetch=conf.bus.prefetch,
        max_unsettled_bytes=conf.bus.max_unsettled_bytes,
        dead_letter_queue=conf.bus.dead_letter_queue,
        notification_topics=read_topics(conf),
        auto_delete=rabbit.amqp_auto_delete,
        quorum=rabbit.rabbit_quorum_queue,
        durable_fanout=rabbit.rabbit_transient_quorum_queue,
        quorum_limits={name: limit for name, limit in limits.items() if limit},
    )


def read_again(conf: cfg.ConfigOpts) -> cfg.ConfigOpts:
    """The options that a client reads, read anew from the files and the environment that ``conf`` was read from.

    oslo.config itself reads only mutable options again, and ``transport_url`` is none. Raises ConfigurationError: a file cannot
    be read, or a password has a ``$`` that is not written twice.
    """
    again = cfg.ConfigOpts()
    register_client_opts(again)
    try:
        again(
            [],
            project=conf.project,
            default_config_files=list(conf.config_file or []),
            default_config_dirs=list(conf.config_dir or []),
        )
        check_logins(again)
    except cfg.Error as error:
        raise ConfigurationError(without_contents(error)) from error
    return again


def with_logins_of(renewed: Sequence[str], urls: Sequence[str]) -> list[str]:
    """``urls`` with the users and passwords that ``renewed`` has for the same addresses."""
    found = {address(url): url for url in renewed}
    return [found.get(address(url), url) for url in urls]


def address(url: str) -> str:
    """Host, port and virtual host of a broker's URL, without user and password: for log lines and messages."""
    return url.rpartition("@")[2]


def user_of(url: str) -> str:
    """The user in a broker's URL, for log lines; '-' if it has none."""
    return urlsplit(url).username or "-"


def _common(conf: cfg.ConfigOpts) -> tuple[_Rabbit, dict[str, Any]]:
    try:
        text = conf.transport_url
    except cfg.NoSuchOptError:
        raise ConfigurationError(wrong_dollar("DEFAULT", "transport_url")) from None
    check_transport_url(text)
    url = oslo_messaging.TransportURL.parse(conf)
    rabbit = _Rabbit(conf, url)
    if rabbit.rabbit_login_method not in _LOGIN_METHODS:
        raise ConfigurationError(
            f"[{_GROUP}] rabbit_login_method {rabbit.rabbit_login_method} is not served; known: {', '.join(_LOGIN_METHODS)}"
        )
    tls = None
    if rabbit.ssl:
        tls = tls_arguments(
            version=rabbit.ssl_version,
            ca_file=rabbit.ssl_ca_file,
            certificate_file=rabbit.ssl_cert_file,
            key_file=rabbit.ssl_key_file,
        )
    heartbeat = max(0, int(rabbit.heartbeat_timeout_threshold))
    return rabbit, {
        "urls": tuple(_url(host, url.virtual_host) for host in url.hosts),
        "exchange": conf.control_exchange,
        "topic": conf.tracker.topic,
        "durable": rabbit.amqp_durable_queues or rabbit.rabbit_quorum_queue,
        "login_method": rabbit.rabbit_login_method,
        "heartbeat_seconds": min(heartbeat or _MAX_HEARTBEAT_SECONDS, _MAX_HEARTBEAT_SECONDS),
        "retry_start_seconds": rabbit.rabbit_retry_interval,
        "retry_step_seconds": rabbit.rabbit_retry_backoff,
        "retry_max_seconds": rabbit.rabbit_interval_max,
        "tls": tls,
    }


def _check_names(conf: cfg.ConfigOpts) -> None:
    """Refuse names that AMQP cannot carry: it has one byte for their length."""
    topic = conf.tracker.topic
    names = [
        ("[DEFAULT] control_exchange", conf.control_exchange),
        ("[tracker] topic", f"{topic}_fanout_{32 * '0'}"),
        *(("[tracker] hosts", f"{topic}_ledger_lock.{host}") for host in conf.tracker.hosts),
        ("[bus] dead_letter_queue", conf.bus.dead_letter_queue),
        *((f"[notifications] {option}", f"{name}.critical") for name, option in topic_options(conf).items()),
    ]
    for option, name in names:
        if len(name.encode()) > _MOST_NAME_BYTES:
            raise ConfigurationError(
                f"{option}: {name[:40]}... is longer than the {_MOST_NAME_BYTES} bytes of an AMQP name"
            )


class _Rabbit:
    """[oslo_messaging_rabbit], overridden by the URL's query."""

    def __init__(self, conf: cfg.ConfigOpts, url: oslo_messaging.TransportURL) -> None:
        self._group = conf[_GROUP]
        options = dict(opts.list_opts())[_GROUP]
        types = {option.name: option.type for option in options}
        self._query = {}
        for number, (name, value) in enumerate(url.query.items(), 1):
            # Neither name nor value is quoted unless it is known: it may be the rest of a password with a ? in it.
            if name not in types:
                raise ConfigurationError(
                    f"[DEFAULT] transport_url: option {number} behind the ? is no option of [{_GROUP}]; in a password write "
                    "%3F for ?"
                )
            try:
                self._query[name] = types[name](value)
            except ValueError:
                raise ConfigurationError(
                    f"[DEFAULT] transport_url: the value of {name} behind the ? is not what this option takes"
                ) from None

    def __getattr__(self, name: str) -> Any:
        return self._query[name] if name in self._query else getattr(self._group, name)


def _url(host: Any, virtual_host: str | None) -> str:
    user, password = quote(host.username or "guest", safe=""), quote(host.password or "guest", safe="")
    name = f"[{host.hostname}]" if ":" in host.hostname else host.hostname
    return f"amqp://{user}:{password}@{name}:{host.port or _PORT}/{quote(virtual_host or '/', safe='')}"
