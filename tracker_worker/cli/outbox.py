# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker outbox``: notifications that are not published yet, publishing them again, and setting one aside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from tracker_worker.cli.context import CommandFailed, Commands, Settings, example, keep_logs_quiet
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.output import JSON, format_option, plain, say, show_json, show_table, table_options, to_seconds
from tracker_worker.cli.table import column, figure

_COLUMNS = (
    column("Host"),
    column("Node"),
    column("Topic"),
    figure("Sequence", 5),
    figure("Published", 4),
    figure("Waiting", 1),
    column("Oldest", 6),
    figure("Age (s)", 2),
    figure("Refused", 3),
)
_NOTHING = (
    "There are no cursors: no worker publishes notifications of this database, or [notifications] topics is empty."
)


@click.group(cls=Commands, epilog=example("outbox status"))
def outbox() -> None:
    """Show the outbox's backlog, publish notifications again, and set one aside that the broker refuses.

    A notification stays in the outbox for [notifications] retention_hours after it was published.
    """


@outbox.command(epilog=example("outbox status"))
@table_options
@click.pass_obj
def status(settings: Settings, style: str) -> None:
    """Show how many notifications of each node wait for each topic.

    Sequence is the last number that was issued, Published the last number that the broker has confirmed; Waiting counts
    the notifications between them; Oldest and Age are of the first of these. Refused is the number of a notification that
    the broker does not take, and behind which all others wait. Below the table are the reason, and since when the broker
    takes no messages at all. Read from the database; no worker needs to run.
    """
    import time

    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.domain.values import SECOND
    from tracker_worker.domain.views import iso

    with opened_store(settings.load(messaging=False)) as store:
        backlog = store.backlog()
    now = time.time_ns() // 1000
    rows: list[dict[str, Any]] = [
        {
            "host": row.host,
            "node": row.node,
            "topic": row.topic,
            "sequence": row.sequence,
            "cursor": row.cursor,
            "rows": row.rows,
            "oldest_at": None if row.oldest_at is None else iso(row.oldest_at),
            "oldest_age_seconds": None if row.oldest_at is None else max(0, now - row.oldest_at) // SECOND,
            "refused_sequence": row.refused_sequence,
            "refused_reason": row.refused_reason,
            "blocked_since": None if row.blocked_since is None else iso(row.blocked_since),
        }
        for row in backlog
    ]
    if style == JSON:
        show_json(rows)
        return
    cells = (list({**row, "oldest_at": to_seconds(row["oldest_at"])}.values())[: len(_COLUMNS)] for row in rows)
    show_table(_COLUMNS, cells, empty=_NOTHING)
    for row in rows:
        if row["refused_sequence"] is not None:
            where = f"{row['host']}/{row['node']}"
            why = f"notification {row['refused_sequence']} of {where} on topic {row['topic']}: {row['refused_reason']}"
            say(f"The broker does not take {why}.")
    blocked = {row["host"]: to_seconds(row["blocked_since"]) for row in rows if row["blocked_since"] is not None}
    for host, since in blocked.items():
        say(f"The broker has taken no messages of the worker of {host} since {since} (alarm).")


@outbox.command(epilog=example("outbox replay --host h1 --node node-1 --from-sequence 17"))
@click.option("--host", required=True, help="The host of the node.")
@click.option("--node", required=True, help="Publish notifications of this node.")
@click.option(
    "--from-sequence",
    "first",
    type=click.IntRange(min=1),
    required=True,
    help="The first sequence number to publish again.",
)
@click.option(
    "--to-sequence",
    "last",
    type=click.IntRange(min=1),
    help="The last sequence number to publish again.  [default: the last issued number]",
)
@click.option("--topic", help="Publish to this topic only.  [default: to every topic of [notifications] topics]")
@format_option
@click.pass_obj
def replay(
    settings: Settings, host: str, node: str, first: int, last: int | None, topic: str | None, style: str
) -> None:
    """Publish notifications of a node again, in order.

    This is for a consumer that has missed notifications. The notifications go to every topic of [notifications] topics,
    compute_topics and cloudevents_topics, or to one of them, with the same ids as before, by which a consumer drops a
    notification that it has seen. A worker may run at the same time. When the outbox no longer has a part of the range,
    the rest is published and the exit code is 1.
    """
    if last is not None and last < first:
        raise click.UsageError("--to-sequence must not be less than --from-sequence.")
    conf = settings.load()
    keep_logs_quiet(conf)
    from tracker_worker.bus.settings import read_settings
    from tracker_worker.cli.ledgers import find_stream, opened_store
    from tracker_worker.cli.outbox_replay import Range, publish_again

    broker = read_settings(conf)
    if not broker.notification_topics:
        raise CommandFailed(
            "nothing is published in this configuration: [notifications] driver is noop, or topics is empty"
        )
    if topic is not None:
        if topic not in broker.notification_topics:
            raise CommandFailed(
                f"[notifications] has no topic {topic}: it has {', '.join(broker.notification_topics)}",
                code=NOT_FOUND,
                topic=topic,
            )
        broker = replace(broker, notification_topics={topic: broker.notification_topics[topic]})
    with opened_store(conf) as store:
        wanted = Range.of(find_stream(store, host, node), first, last, topic)
        replayed = publish_again(store, broker, wanted)
    if style == JSON:
        topics = list(broker.notification_topics)
        show_json({"host": host, "node": node, "topics": topics, "sent": replayed.sent, "missing": replayed.missing})
    else:
        on = "" if topic is None else f" on topic {topic}"
        click.echo(plain(f"Published {replayed.sent} notifications of {host}/{node} again{on}."))
    if replayed.missing:
        spans = ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in replayed.missing)
        raise CommandFailed(
            f"the outbox does not have sequences {spans} of {host}/{node}: they were pruned, or never stored"
        )


@outbox.command(epilog=example("outbox skip --host h1 --node node-1 --sequence 17 --yes"))
@click.option("--host", required=True, help="The host of the node.")
@click.option("--node", required=True, help="Skip a notification of this node.")
@click.option("--sequence", type=click.IntRange(min=1), required=True, help="The number of the notification.")
@click.option("--topic", help="Skip it on this topic only.  [default: on every topic that waits for it]")
@click.option("--yes", is_flag=True, help="Skip it. Without --yes nothing is changed and the exit code is 1.")
@format_option
@click.pass_obj
def skip(settings: Settings, host: str, node: str, sequence: int, topic: str | None, yes: bool, style: str) -> None:
    """Set a notification aside that the broker refuses, so that those behind it are published.

    Only the first notification that is not published yet can be skipped: see `outbox status`. Consumers see a gap. The
    notification stays in the outbox for [notifications] retention_hours, and `outbox replay` can publish it. A worker may run
    at the same time: it goes on within a few seconds.
    """
    from tracker_worker.cli.ledgers import find_stream, opened_store
    from tracker_worker.cli.outbox_skip import skip as skip_on
    from tracker_worker.cli.outbox_skip import topics_to_skip

    with opened_store(settings.load(messaging=False)) as store:
        ledger_id = store.histories()[-1].ledger_id
        stream = find_stream(store, host, node)
        topics = topics_to_skip(store, stream, sequence, topic)
        on = f"topic {topics[0]}" if len(topics) == 1 else f"topics {', '.join(topics)}"
        if not yes:
            raise CommandFailed(
                f"notification {sequence} of {host}/{node} would be skipped on {on}; say --yes to do it"
            )
        skip_on(store, stream, sequence, topics, ledger_id=ledger_id)
    if style == JSON:
        show_json({"host": host, "node": node, "sequence": sequence, "topics": topics})
    else:
        click.echo(plain(f"Skipped notification {sequence} of {host}/{node} on {on}."))
