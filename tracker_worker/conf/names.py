# SPDX-License-Identifier: Apache-2.0
"""The names in the configuration of which exchanges, queues and routing keys are made."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.conf import notifications
from tracker_worker.errors import ConfigurationError

_MOST_BYTES = 255
"""AMQP 0-9-1 writes names and routing keys as short strings."""


def check_names(conf: cfg.ConfigOpts) -> None:
    """Raises ConfigurationError: a host, a topic, a queue or the exchange has a name that cannot be used or is used twice."""
    topic, dead_letters = conf.tracker.topic, conf.bus.dead_letter_queue
    if not conf.tracker.hosts or not all(conf.tracker.hosts):
        raise ConfigurationError("[tracker] hosts names no host")
    _check_words("[tracker] topic", topic, room=len("_fanout"))
    for host in conf.tracker.hosts:
        check_host_name("[tracker] hosts", host, topic)
    _check("[DEFAULT] control_exchange", conf.control_exchange)
    _check("[bus] dead_letter_queue", dead_letters)
    topics = topic_options(conf)
    for name, option in topics.items():
        _check_words(f"[notifications] {option}", name, room=len(".critical"))
    if dead_letters == topic:
        raise ConfigurationError(f"[bus] dead_letter_queue {dead_letters} is the queue of [tracker] topic")
    taken_by = topics.get(dead_letters.rpartition(".")[0])
    if taken_by is not None:
        raise ConfigurationError(f"[bus] dead_letter_queue {dead_letters} is a queue of [notifications] {taken_by}")


def read_hosts(conf: cfg.ConfigOpts) -> list[str]:
    """The hosts that the worker serves, each once. Raises ConfigurationError, also as ``check_names`` does."""
    check_names(conf)
    hosts = list(dict.fromkeys(conf.tracker.hosts))
    if len(hosts) > 1 and conf.tracker.inventory_driver == "host":
        raise ConfigurationError(
            "[tracker] inventory_driver host reports this one machine; with several hosts choose another driver"
        )
    return hosts


def topic_options(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Each topic of notifications, and the option of [notifications] that names it. Raises ConfigurationError: a topic is named
    twice."""
    found: dict[str, str] = {}
    for option in notifications.TOPICS:
        for name in conf.notifications[option]:
            other = found.setdefault(name, option)
            if other != option:
                raise ConfigurationError(f"[notifications] {other} and {option} both name {name}")
            if conf.notifications[option].count(name) > 1:
                raise ConfigurationError(f"[notifications] {option} names {name} twice")
    return found


def check_host_name(option: str, name: str, topic: str) -> None:
    """Raises ConfigurationError: no host can have this name, because its queue is ``<topic>.<name>``."""
    _check_words(option, name, room=len(topic.encode()) + 1)


def _check(option: str, name: str, room: int = 0) -> None:
    if not name:
        raise ConfigurationError(f"{option} is empty")
    if not name.isprintable():
        raise ConfigurationError(f"{option} has a character that cannot be printed: {name!r}")
    if len(name.encode()) + room > _MOST_BYTES:
        raise ConfigurationError(
            f"{option} has a name of {len(name.encode())} bytes, at most {_MOST_BYTES - room} are possible: {name[:40]}..."
        )


def _check_words(option: str, name: str, room: int) -> None:
    """``name`` becomes a part of a routing key, where a dot separates words and two characters stand for any words."""
    _check(option, name, room)
    if any(character.isspace() for character in name):
        raise ConfigurationError(f"{option} has a space in {name!r}: a comma separates names")
    if "," in name:
        raise ConfigurationError(f"{option} has a comma in {name!r}: a comma separates names")
    if "*" in name or "#" in name:
        raise ConfigurationError(f"{option} has {name!r}: * and # would stand for any name")
    if not all(name.split(".")):
        raise ConfigurationError(f"{option} has {name!r}, where a part before or after a dot is empty")
