# SPDX-License-Identifier: Apache-2.0
"""What is said about requests beside their answers: figures, log, history, traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.tracing import Tracing, configured_tracing
from tracker_worker.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """``tally`` counts what becomes of requests. ``refusals_kept``: the most refusals that the store keeps. ``log_fields``: the
    log takes figures and who asked as fields of their own. ``projects``: the snapshots of the ledgers have what projects are
    charged. ``store_place``: where the store is and which option says so, for the log. ``tracing`` None: it is off."""

    tally: Tally = field(default_factory=Tally)
    refusals_kept: Callable[[], int] = lambda: 0
    log_fields: bool = False
    projects: bool = False
    store_place: str = ""
    tracing: Tracing | None = None

    def stop(self, seconds: float) -> None:
        """Export the spans that have ended, for at most so long."""
        if self.tracing is not None:
            self.tracing.stop(seconds)

    @property
    def trace(self) -> Callable[[PendingRequest, Mapping[str, Any]], None] | None:
        """What begins the span of a request; None: tracing is off."""
        return None if self.tracing is None else self.tracing.begin


def configured_reporting(
    conf: cfg.ConfigOpts, runtime: threads.Runtime, *, log_fields: bool, store_place: str, worker: str
) -> Reporting:
    """What the options say. ``worker`` is the name of this worker. Raises ConfigurationError: see ``configured_tracing``."""
    return Reporting(
        refusals_kept=lambda: int(conf.tracker.refusals_kept),
        log_fields=log_fields,
        projects=conf.health.project_series > 0,
        store_place=store_place,
        tracing=configured_tracing(conf, worker=worker, runtime=runtime),
    )
