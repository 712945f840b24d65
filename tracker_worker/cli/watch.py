# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker watch``: show notifications as they are published."""

from __future__ import annotations

import json
import os
import signal
from types import FrameType

import click
from oslo_config import cfg

from tracker_worker.cli.context import Settings, example, keep_logs_quiet
from tracker_worker.cli.output import JSON, format_option_with


@click.command(epilog=example("watch --topic notifications --count 10"))
@click.option("--topic", default="notifications", show_default=True, help="Watch this topic, one of [notifications].")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many notifications.")
@format_option_with(
    "Print words for people, or the whole message as JSON, one line for each notification and for an error."
)
@click.pass_obj
def watch(settings: Settings, topic: str, count: int | None, style: str) -> None:
    """Show notifications as they are published, until Ctrl-C or TERM.

    A line has the time, the event type, host and node, the node's sequence number, the instance and the amounts; with
    --format json it is the whole message.

    Other consumers still get every notification: the broker puts copies into a queue of this command, which is deleted
    when the command ends. Notifications that are published while the command is not connected are not shown; a gap in a
    node's sequence numbers reveals them.
    """
    _end_on_signals()
    try:
        _watch(settings.load(), topic, count, style)
    except KeyboardInterrupt:
        os._exit(0)  # the interpreter's own end would wait for whoever reads stdout


def _end_on_signals() -> None:
    """TERM or INT ends the command with exit code 0, a second one with 1 and at once."""
    signalled = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            os._exit(1)
        signalled = True
        raise KeyboardInterrupt

    # Set here and not inherited: a shell that starts a program in the background has it ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _watch(conf: cfg.ConfigOpts, topic: str, count: int | None, style: str) -> None:
    from tracker_worker.bus.settings import read_settings
    from tracker_worker.cli.feed import Feed, describe

    keep_logs_quiet(conf)
    line = json.dumps if style == JSON else describe
    feed = Feed(read_settings(conf), topic, lambda text: click.echo(text, err=True))
    try:
        for number, message in enumerate(feed.messages(), 1):
            click.echo(line(message))
            if number == count:
                break
    finally:
        feed.stop()
