# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker demo``: run the whole system in one command, and compare billing with the ledger."""

from __future__ import annotations

import click

from tracker_worker.cli.context import Settings, example
from tracker_worker.cli.output import format_option


@click.command(epilog=example("demo --hosts 2 --instances 100"))
@click.option(
    "--transport-url",
    metavar="URL",
    help="Use this broker, e.g. rabbit://user:password@host:5672//  [default: a bus in memory]",
)
@click.option(
    "--hosts",
    default=4,
    show_default=True,
    type=click.IntRange(1, 200),
    help="Number of simulated hosts; this machine is served too.",
)
@click.option(
    "--instances", default=400, show_default=True, type=click.IntRange(1), help="Number of instances to place."
)
@format_option
@click.pass_obj
def demo(settings: Settings, transport_url: str | None, hosts: int, instances: int, style: str) -> None:
    """Run workers, a scheduler and a billing consumer together.

    It takes a few seconds. The scheduler places instances by asking for node views and claiming with limits. Some
    claims are refused, some builds fail, and some are lost, so that their claims expire; instances grow, are resized,
    migrated, evacuated and deleted. Billing receives only notifications. At the end, the sums of billing are compared
    with the ledger, which is a temporary SQLite database, and its bill of the instances that moved is compared with the
    answers that the scheduler has received. Then come the invoice of the closed periods and that of the events, and once more
    both, of a consumer that has lost notifications and gets them from the workers. The exit code is 1 when anything differs
    or a notification is missing.
    """
    from tracker_worker.cli.demo.run import run

    if not run(settings, transport_url, hosts, instances, style):
        raise SystemExit(1)
