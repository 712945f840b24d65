# SPDX-License-Identifier: Apache-2.0
"""What the database says about its clock, its hosts and its notifications."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

import sqlalchemy as sa

from tracker_worker.cli.check.consumers import letters
from tracker_worker.cli.check.findings import Problem, enumerated, error, warning
from tracker_worker.cli.check.publishing import alarm_cure
from tracker_worker.cli.check.subjects import Database
from tracker_worker.domain.life import MISSING, STALE, UNKNOWN
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.store.base import OutboxBacklog, serving, standbys
from tracker_worker.store.sql.rows import life_from
from tracker_worker.store.sql.schema import dead_letters, hosts, nodes
from tracker_worker.text import counted, printable

_MOST_CLOCK_SECONDS = 2.0
_MOST_REFUSED = 20


def check_clock(database: Database) -> Iterator[Problem]:
    """This machine's clock is near the database's, by which workers go."""
    before = time.time_ns() // 1000
    there = database.store.time()
    after = time.time_ns() // 1000
    ahead = (there - (before + after) / 2) / SECOND
    if abs(ahead) > _MOST_CLOCK_SECONDS:
        yield warning(
            f"the clock of the database of [database] connection is {abs(ahead):.1f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} that of this machine, more than {_MOST_CLOCK_SECONDS:g} s: workers go by "
            "the database's. On the machine whose clock is wrong, let the network set it",
            "timedatectl set-ntp true",
        )


def check_hosts(database: Database) -> Iterator[Problem]:
    """Each host of the ledger is served by a worker, and each of the configuration is in the ledger."""
    installation, store = database.installation, database.store
    own = installation.conf.tracker.hosts
    records, now = store.hosts(), store.time()
    unserved = {each.name: each for each in records if serving(each, now) is None and not standbys(each, now)}
    mine = [name for name in own if name in unserved]
    if mine:
        yield error(
            f"no worker serves {counted(len(mine), 'host')} of [tracker] hosts: {enumerated(mine)}", installation.serve
        )
    new = [name for name in own if name not in {record.name for record in records}]
    if new:
        yield error(
            f"{counted(len(new), 'host')} of [tracker] hosts not in the database, no worker has started with them: "
            f"{enumerated(new)}",
            installation.serve,
        )
    for name, record in unserved.items():
        if name in own:
            continue
        is_charged = record.instances > 0
        yield warning(
            f"no worker serves host {printable(name)} of the database, which is not in [tracker] hosts; it is charged for "
            f"{counted(record.instances, 'instance')} on {counted(record.nodes, 'node')}, last seen {iso(record.last_seen_at)}",
            f"[tracker] hosts = {', '.join([*own, name])}"
            if is_charged
            else installation.command("host", "forget", name),
        )


def check_nodes(database: Database) -> Iterator[Problem]:
    """Each node has a current inventory."""
    query = (
        sa.select(hosts.c.name.label("host"), nodes.c.name, nodes.c.life)
        .join(hosts, nodes.c.host_id == hosts.c.id)
        .where(nodes.c.state.in_((STALE, UNKNOWN, MISSING)))
        .order_by(hosts.c.name, nodes.c.name)
    )
    with database.engine.connect() as connection:
        found = [(row.host, row.name, life_from(row.life)) for row in connection.execute(query)]
    if found:
        reasons = [
            printable(
                f"{host}/{node} is {life.state} ({life.reason})" if life.reason else f"{host}/{node} is {life.state}"
            )
            for host, node, life in found
        ]
        of = {host for host, _, _ in found}
        yield warning(
            f"{counted(len(found), 'node')} of {counted(len(of), 'host')} without a current inventory: "
            f"{enumerated(reasons)}. See to the inventory driver, or to the node",
            database.installation.command("audit", *(("--host", *of) if len(of) == 1 else ("--all",))),
        )


def check_outbox_age(database: Database) -> Iterator[Problem]:
    """No notification waits for longer than --max-outbox-age."""
    installation, now = database.installation, database.store.time()
    most = installation.max_outbox_age
    late: dict[str, list[OutboxBacklog]] = defaultdict(list)
    for row in database.store.backlog():
        if row.oldest_at is not None and now - row.oldest_at > most * SECOND:
            late[row.topic].append(row)
    for topic, rows in late.items():
        oldest = min(rows, key=lambda row: row.oldest_at or now)
        age = (now - (oldest.oldest_at or now)) // SECOND
        yield warning(
            f"{counted(sum(row.rows for row in rows), 'notification')} of {counted(len(rows), 'node')} for topic {topic} not "
            f"published; the oldest, of {printable(oldest.host)}/{printable(oldest.node)}, has waited for {age} s, more than "
            f"{most} s (--max-outbox-age)",
            installation.serve if _is_alone(database, oldest.host) else installation.command("outbox", "status"),
        )


def _is_alone(database: Database, host: str) -> bool:
    """Whether no worker publishes the notifications of a host."""
    now = database.store.time()
    return not any(each.name == host and serving(each, now) is not None for each in database.store.hosts())


def check_refused(database: Database) -> Iterator[Problem]:
    """The broker refuses no notification, behind which all later ones of the node are held."""
    refused = [row for row in database.store.backlog() if row.refused_sequence is not None]
    for row in refused[:_MOST_REFUSED]:
        place = ("--host", row.host, "--node", row.node, "--sequence", str(row.refused_sequence), "--topic", row.topic)
        yield error(
            f"the broker refuses notification {row.refused_sequence} of {printable(row.host)}/{printable(row.node)} on topic "
            f"{row.topic} ({printable(row.refused_reason or '')}), and {counted(row.rows - 1, 'later one')} behind it held",
            database.installation.command("outbox", "skip", *place, "--yes"),
        )
    if len(refused) > _MOST_REFUSED:
        yield error(
            f"the broker refuses notifications of {len(refused) - _MOST_REFUSED} more nodes and topics",
            database.installation.command("outbox", "status"),
        )


def check_blocked(database: Database) -> Iterator[Problem]:
    """No worker has said that the broker takes nothing from it."""
    blocked = {row.host: row.blocked_since for row in database.store.backlog() if row.blocked_since is not None}
    if blocked:
        since = min(blocked.values())
        yield error(
            f"the broker takes no messages (alarm) of the workers of {counted(len(blocked), 'host')}, "
            f"{enumerated(list(blocked))}, since {iso(since)}, {(database.store.time() - since) // SECOND} s",
            alarm_cure(),
        )


def check_kept_letters(database: Database) -> Iterator[Problem]:
    """The database keeps no dead letter, which the broker did not take."""
    with database.engine.connect() as connection:
        count, size = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(dead_letters.c.size), 0))
        ).one()
    if count:
        place = f"the database ({size} bytes), which the broker did not take"
        yield letters(database.installation, counted(count, "dead letter"), place)
