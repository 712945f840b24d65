# SPDX-License-Identifier: Apache-2.0
"""What keeps a worker from being ready, in sentences that name the figures and where to look."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.service.health.figures import Figures

STARTING = "starting"
STOPPING = "stopping"
BROKER_UNREACHABLE = "broker_unreachable"
BROKER_ALARM = "broker_alarm"
STORE_UNAVAILABLE = "store_unavailable"
DEAF = "deaf"
NOT_CONSUMING = "not_consuming"
OTHER_LEDGER = "other_ledger"
STALLED = "stalled"
CODES = (
    STARTING,
    STOPPING,
    STALLED,
    STORE_UNAVAILABLE,
    BROKER_UNREACHABLE,
    BROKER_ALARM,
    DEAF,
    NOT_CONSUMING,
    OTHER_LEDGER,
)
"""Every code, in the order in which problems are listed: what causes others comes first."""

_MOST_NAMES = 10
_SPECIAL = {SHARED: "the shared queue", FANOUT: "the queue of fanouts"}


@dataclass(frozen=True, slots=True)
class Problem:
    """``message`` is one sentence. ``lasting``: the time for which the problem has been known belongs behind it.
    ``logged``: whoever has found it has logged it."""

    code: str
    message: str
    lasting: bool = True
    logged: bool = True


def problems(figures: Figures, *, turn_seconds: int) -> list[Problem]:
    """At most one problem of each code, in the order of CODES. ``turn_seconds``: the option."""
    found = {problem.code: problem for problem in _found(figures, turn_seconds)}
    return [found[code] for code in CODES if code in found]


def _found(figures: Figures, turn_seconds: int) -> Iterator[Problem]:
    if figures.stopping:
        yield Problem(STOPPING, "the worker stops")
    elif figures.starting:
        yield Problem(STARTING, f"the worker starts: {figures.starting}")
    if figures.stands is not None:
        yield Problem(
            STALLED,
            f"the engine has not turned for {figures.stands:.0f} s, which is more than [health] turn_seconds ({turn_seconds} "
            "s); [tracker] stall_seconds ends the process",
            lasting=False,
            logged=False,
        )
    if figures.store_error:
        yield Problem(
            STORE_UNAVAILABLE, f"the database cannot be used ({figures.store_error}): see [database] connection"
        )
    elif figures.locked:
        yield Problem(
            STORE_UNAVAILABLE,
            f"for {max(figures.locked.values()):.0f} s another session has locked the rows of {names(figures.locked)} in the "
            "database, and what arrives for them waits: see the sessions of [database] connection",
            lasting=False,
        )
    if figures.refused:
        yield Problem(
            OTHER_LEDGER, _not_served(figures.refused.keys(), next(filter(None, figures.refused.values()), ""))
        )
    if figures.contact is not None and not figures.stopping:
        yield from _of_the_bus(figures)


def _of_the_bus(figures: Figures) -> Iterator[Problem]:
    contact = figures.contact
    assert contact is not None
    brokers = ", ".join(contact.brokers) or "the broker"
    if not contact.consuming or not contact.publishing:
        why = f" ({contact.problem})" if contact.problem else ""
        yield Problem(BROKER_UNREACHABLE, f"there is no connection to {brokers}{why}: see [DEFAULT] transport_url")
        return
    if figures.blocked is not None:
        yield Problem(
            BROKER_ALARM,
            f"{brokers} takes no messages, because of an alarm ({figures.blocked.reason}): see its memory and its disk",
        )
    elif figures.unanswered is not None:
        yield Problem(
            BROKER_UNREACHABLE,
            f"{brokers} has answered nothing that was published for {figures.unanswered:.0f} s, although the connection is "
            "open: see [DEFAULT] transport_url and [health] probe_interval_seconds",
            lasting=False,
            logged=False,
        )
    if figures.unheard:
        seconds = min(figures.unheard.values())
        yield Problem(
            DEAF,
            f"for {seconds:.0f} s nothing has arrived of what was sent through the queues of {names(figures.unheard)}, "
            "although the connection is open: see the network to the broker, and [health] probe_interval_seconds",
            lasting=False,
            logged=False,
        )
    if missing := (figures.served | {SHARED, FANOUT}) - contact.consumed if figures.served else frozenset():
        yield Problem(
            NOT_CONSUMING, f"the broker does not deliver from the queues of {names(missing)}: the log says why"
        )
    elif figures.pending:
        yield Problem(
            NOT_CONSUMING, _not_served(figures.pending.keys(), next(filter(None, figures.pending.values()), ""))
        )


def _not_served(hosts: Collection[str], reason: str) -> str:
    verb = "is" if len(hosts) == 1 else "are"
    return f"{names(hosts)} {verb} not served: {reason or 'the markers on the broker have yet to be looked at'}"


def names(sources: Collection[str]) -> str:
    """The names of sources, the first ten of them: "h1, h2 and 3 more"."""
    shown = [_SPECIAL.get(source, source) for source in islice(sorted(sources), _MOST_NAMES)]
    more = len(sources) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
