# SPDX-License-Identifier: Apache-2.0
"""Changes to nodes, hosts and instances from the command line: the database, and who makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tracker_worker.cli.context import CommandFailed, Settings
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.operator import asked
from tracker_worker.text import counted

if TYPE_CHECKING:
    from tracker_worker.administration import Administration
    from tracker_worker.store.base import Store


@contextmanager
def administration(settings: Settings, method: str) -> Iterator[tuple[Store, Administration]]:
    """The store, and what changes it on behalf of the user of this process; ``method`` is the command that is used.

    Raises CommandFailed: the database does not exist or has another schema, or the change is refused. Raises
    ConfigurationError, TrackerError.
    """
    from tracker_worker.administration import Administration, Refused
    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.errors import NodeBusy, NodeNotFound
    from tracker_worker.notifications.style import read_style

    conf = settings.load(messaging=False)
    notify = conf.notifications.driver == "messaging"
    with opened_store(conf) as store:
        try:
            yield store, Administration(store, notify=notify, style=read_style(conf), asked=asked(method))
        except Refused as refused:
            raise CommandFailed(str(refused)) from refused
        except NodeBusy as busy:  # all of the instances: the text of the error itself is cut
            facts = busy.kwargs
            raise CommandFailed(
                f"node {facts['node']} of host {facts['host']} is charged for {counted(len(facts['instances']), 'instance')}: "
                f"{', '.join(facts['instances'])}",
                code=busy.code,
                **facts,
            ) from busy
        except NodeNotFound as error:
            host, node = error.kwargs["host"], error.kwargs["node"]
            loaded = store.load_host(host)
            if loaded is None or node not in loaded.nodes:
                raise
            raise CommandFailed(
                f"node {node} of host {host} is retired: 'node undrain' takes it back", code=error.code, **error.kwargs
            ) from error


def host_of(store: Store, node: str, host: str | None) -> str:
    """The host of a node: the given one, or the only one that has a node of this name.

    Raises CommandFailed: no host has such a node, or several have one.
    """
    if host is not None:
        return host
    hosts = [name for name in store.host_names() if (loaded := store.load_host(name)) and node in loaded.nodes]
    if not hosts:
        raise CommandFailed(f"the database has no node {node}", code=NOT_FOUND, node=node)
    if len(hosts) > 1:
        raise CommandFailed(
            f"there is a node {node} on several hosts, name one of them with --host: {', '.join(hosts)}"
        )
    return hosts[0]
