# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker serve``: run the worker in the foreground."""

from __future__ import annotations

import signal

import click

from tracker_worker.cli.context import Settings, example


@click.command(epilog=example("--config-file /etc/tracker-worker/worker.conf serve"))
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serve the hosts of [tracker] hosts until TERM or INT.

    TERM or INT finishes the batch in hand and stops with exit code 0, within [tracker] stop_seconds; a second TERM or INT stops
    immediately with exit code 1. HUP reads the mutable options and the static inventory file again and audits. The exit code is
    also 1 when a part of the worker fails. USR2 writes a report on the worker's state to stderr.
    """
    # What comes before the process can answer it waits: the default action would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    from tracker_worker.cli.process import WorkerProcess

    WorkerProcess(settings).run()
