# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker check``: look for what is wrong, and say what cures it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from tracker_worker.cli.check.findings import Finding, Level, worst
from tracker_worker.cli.context import Settings, example, keep_logs_quiet
from tracker_worker.cli.output import JSON, format_option, plain, show_json
from tracker_worker.errors import ConfigurationError
from tracker_worker.text import counted


@click.command(epilog=example("check", "check --max-outbox-age 300 --format json"))
@click.option(
    "--max-outbox-age",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Warn of notifications that have waited for longer than this to be published.",
)
@format_option
@click.pass_obj
def check(settings: Settings, max_outbox_age: int, style: str) -> None:
    """Check the configuration, the broker and the database, and say what is wrong and what cures it.

    Nothing is changed, and a worker may run. If the broker cannot be reached, the database is checked all the same, and the
    other way round. A check takes ten seconds at most.

    The exit code is 0 if there is nothing to do, 1 for warnings only, and 2 for an error. Run it as the worker's user: others
    may not be able to read its files.
    """
    findings = list(_findings(settings, max_outbox_age))
    if style == JSON:
        show_json([finding.view() for finding in findings])
    else:
        _show(findings)
    sys.exit(worst(findings).exit_code)


def _findings(settings: Settings, max_outbox_age: int) -> Iterator[Finding]:
    try:
        conf = settings.load()
        keep_logs_quiet(conf)
        from tracker_worker.bus.settings import read_settings
        from tracker_worker.cli.check.running import Run
        from tracker_worker.cli.check.subjects import Installation
        from tracker_worker.conf.names import check_names

        check_names(conf)
        broker = read_settings(conf)
    except ConfigurationError as error:
        yield Finding(
            Level.ERROR, "configuration", f"{error}; nothing else was checked", "tracker-worker config sample"
        )
        return
    installation = Installation(settings=settings, conf=conf, broker=broker, max_outbox_age=max_outbox_age)
    yield from Run(installation).findings()


def _show(findings: list[Finding]) -> None:
    """One line for each finding, and one for its cure, which can be copied."""
    level_width = max(len(level.value) for level in Level)
    name_width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.level.value:<{level_width}}  {finding.name:<{name_width}}  {plain(finding.message)}")
        if finding.cure:
            click.echo(f"{'':<{level_width}}  {'cure':>{name_width}}  {plain(finding.cure)}")
    errors, warnings = (sum(finding.level is level for finding in findings) for level in (Level.ERROR, Level.WARNING))
    click.echo(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
