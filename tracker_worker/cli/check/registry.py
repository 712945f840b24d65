# SPDX-License-Identifier: Apache-2.0
"""The checks. Another one is a function that yields problems, and its line here.

What a check looks at decides when it runs: a connection to the broker and one to the database are opened at the same time, each
in a thread of its own, and the checks of a family that has none are not done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tracker_worker.cli.check.broker_rights import check_rights
from tracker_worker.cli.check.consumers import check_dead_letters, check_host_consumers, check_notification_consumers
from tracker_worker.cli.check.declarations import check_declarations
from tracker_worker.cli.check.file_modes import check_configuration_modes, check_state_modes
from tracker_worker.cli.check.findings import Finding, Level, Problem
from tracker_worker.cli.check.health import check_health
from tracker_worker.cli.check.ledger import (
    check_blocked,
    check_clock,
    check_hosts,
    check_kept_letters,
    check_nodes,
    check_outbox_age,
    check_refused,
)
from tracker_worker.cli.check.markers import check_markers
from tracker_worker.cli.check.options import check_options
from tracker_worker.cli.check.publishing import check_alarm
from tracker_worker.cli.check.schema import check_privileges, check_schema
from tracker_worker.cli.check.subjects import Broker, Database, Installation

Subject = TypeVar("Subject")
BOTH = tuple[Broker, Database]


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """``fine``: what is said where ``run`` yields nothing."""

    name: str
    run: Callable[[Subject], Iterator[Problem]]
    fine: str

    def findings(self, subject: Subject) -> list[Finding]:
        """What the check finds: problems, or that there is none."""
        found = [Finding(each.level, self.name, each.message, each.cure) for each in self.run(subject)]
        return found or [Finding(Level.OK, self.name, self.fine, None)]


BROKER, DATABASE = "broker", "database"
"""The names of the findings about the connections themselves."""
SCHEMA = "schema"

LOCAL: Sequence[Check[Installation]] = (
    Check("options", check_options, "every option and group of the configuration has a meaning"),
    Check("configuration_mode", check_configuration_modes, "no password in a file that everybody can read"),
    Check("state_mode", check_state_modes, "no database file that everybody can read"),
)
ON_WORKER: Sequence[Check[Installation]] = (
    Check("health", check_health, "the worker at [health] listen has no problem, or the option is off"),
)
ON_BROKER: Sequence[Check[Broker]] = (
    Check("broker_alarm", check_alarm, "the broker takes messages"),
    Check("host_consumers", check_host_consumers, "the queue of each host of [tracker] hosts has a consumer"),
    Check("notification_consumers", check_notification_consumers, "no notification queue without a consumer"),
    Check("dead_letters", check_dead_letters, "the dead-letter queue is empty"),
    Check("declarations", check_declarations, "exchanges and queues are as the worker and stock clients declare them"),
    Check("broker_rights", check_rights, "the user may do all that a worker does"),
)
# These need no tables.
ON_SCHEMA: Sequence[Check[Database]] = (
    Check("database_rights", check_privileges, "the user may read and write all tables"),
    Check(SCHEMA, check_schema, "the schema is that of this release"),
)
ON_TABLES: Sequence[Check[Database]] = (
    Check("clock", check_clock, "this machine and the database agree about the time"),
    Check("hosts", check_hosts, "each host of the ledger and of [tracker] hosts is served by a worker"),
    Check("nodes", check_nodes, "each node has a current inventory"),
    Check("outbox_age", check_outbox_age, "no notification waits for longer than --max-outbox-age"),
    Check("outbox_refused", check_refused, "the broker refuses no notification"),
    Check("worker_blocked", check_blocked, "no worker waits for the end of an alarm"),
    Check("kept_dead_letters", check_kept_letters, "the database keeps no dead letter"),
)
ON_BOTH: Sequence[Check[BOTH]] = (
    Check("other_ledger", lambda both: check_markers(*both), "no host of [tracker] hosts belongs to another ledger"),
)
