# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker history``: what was decided, for whom, and why."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from tracker_worker.cli.context import Settings, example
from tracker_worker.cli.output import JSON, others, show_json, show_table, table_options, to_seconds
from tracker_worker.cli.table import column, figure, prose
from tracker_worker.domain.resources import STANDARD

if TYPE_CHECKING:
    from tracker_worker.history import Entry

_COLUMNS = (
    column("Time"),
    column("Outcome"),
    column("Instance", 1),
    column("Node", 3),
    column("Method", 5),
    prose("Amounts", 4),
    prose("Why", 2),
    column("Project", 6),
    column("User", 7),
    column("Request", 8),
    figure("ms", 9),
)
_NOTHING = "There are no such decisions."
_AGE = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Since(click.ParamType):
    """An age such as 24h or 7d, or a time in ISO 8601, as microseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import time

        if not isinstance(value, str):
            return value
        age = _AGE.fullmatch(value)
        if age is not None:
            return time.time_ns() // 1000 - int(age[1]) * _SECONDS[age[2]] * 1_000_000
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither an age such as 90s, 30m, 24h or 7d nor a time in ISO 8601.", param, ctx)
        return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


@click.command(
    epilog=example("history 5c0de000-0000-4000-8000-000000000001 --since 24h", "history --host h1 --limit 20")
)
@click.argument("instance", metavar="[INSTANCE]", required=False)
@click.option("--host", help="Show only decisions of this host.")
@click.option("--node", help="Show only decisions about this node.")
@click.option("--project", help="Show only what this project owns or asked for.")
@click.option(
    "--since", type=_Since(), metavar="TIME", help="Show only what is later: an age (24h, 7d) or a time (UTC)."
)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Show at most the last so many."
)
@table_options
@click.pass_obj
def history(
    settings: Settings,
    instance: str | None,
    host: str | None,
    node: str | None,
    project: str | None,
    since: int | None,
    limit: int,
    style: str,
) -> None:
    """Show what was decided, oldest first: claims, moves, changes and refusals, with who asked for them.

    Why has the shortfalls of a refusal, as requested/used/limit, or the error. Read from the database; no worker needs to run.
    Events are known for [notifications] retention_hours; of the refusals that have no notification the last [tracker]
    refusals_kept are.
    """
    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.history import Wanted, read_history

    wanted = Wanted(instance_uuid=instance, host=host, node=node, project=project, since=since or 0, limit=limit)
    with opened_store(settings.load(messaging=False), patient=True) as store:
        found = read_history(store, wanted)
    if style == JSON:
        show_json([entry.view() for entry in found])
    else:
        show_table(_COLUMNS, map(_cells, found), empty=_NOTHING)


def _cells(entry: Entry) -> list[Any]:
    view = entry.view()
    who = view["who"]
    standard = [f"{name}={entry.figures[name]}" for name in STANDARD if name in entry.figures]
    return [
        to_seconds(view["at"]),
        entry.outcome,
        entry.instance_uuid or None,
        f"{entry.host}/{entry.node}" if entry.node else entry.host,
        view["method"] or None,
        " ".join(filter(None, [*standard, others(entry.figures)])) or None,
        _why(entry) or None,
        who["project_id"] or None,
        who["user_id"] or None,
        who["request_id"] or None,
        view["duration_ms"],
    ]


def _why(entry: Entry) -> str:
    """The shortfalls of a refusal, or its error."""
    lacks = " ".join(
        f"{each.resource}={each.requested}/{each.used}/{each.limit}" + (f" ({each.reason})" if each.reason else "")
        for each in entry.shortfalls
    )
    return lacks or ": ".join(filter(None, [entry.code, entry.reason]))
