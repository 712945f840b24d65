# SPDX-License-Identifier: Apache-2.0
"""Serves a host only from the ledger that the host's marker on the broker names.

The marker is looked at before the host's queue is consumed, after each loss of the connection again, and once more when the
first delivery of each connection has arrived, before it is decided: meanwhile the deliveries are kept here, unsettled. All of
it happens on a thread of its own, over a connection that is open while there is something to look at.

A worker that finds a consumer on the queue is a standby if its database is the consumer's. This cannot be asked, but seen:
the consumer's worker renews its lease every few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tracker_worker import threads
from tracker_worker.bus.base import FANOUT, SHARED, Bus, Delivery, Marker, Markers, MarkerUnavailable, MarkerUnwritten
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.gate import Gate
from tracker_worker.service.chores.marker import MAY_SERVE, NO_SUCH_HOST, Owner, owner, take
from tracker_worker.service.chores.standing import HostStanding, Standing, copied, foreign
from tracker_worker.store.base import History, HostRecord, Store

LOG = logging.getLogger(__name__)

# What stands in the way of a whole round: no broker, no store.
_RETRY_SECONDS = 0.5
# A long round tells what it has found after so long, and again after twice as long each time: whoever hears of it looks at all
# hosts that are served.
_TELL_SECONDS = 0.2
# The ledger_id of the database is compared this often with the one that the markers have.
_HISTORY_SECONDS = 5.0
# A host about which nothing is decided for so long is left out of what a ready worker has decided.
_PENDING_SECONDS = 30.0
# The renewal of a token that the broker did not take is tried again after this time.
_RENEW_SECONDS = 5.0


class Ownership:
    """``received``, ``emptied``, ``opened`` and ``lost`` are for the bus (see ``Listener``); the other methods may be called
    from any thread as well."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        hosts: Sequence[str],
        worker: str,
        received: Callable[[Sequence[Delivery]], None],
        waited: Callable[[Sequence[Delivery]], None],
        changed: Callable[[frozenset[str]], None],
        emptied: Callable[[str], None] = lambda host: None,
        clock: Callable[[], int],
        died: Callable[[BaseException], None],
        monotonic: Callable[[], float] = threads.monotonic,
        runtime: threads.Runtime = threads.SYSTEM,
        new_token: Callable[[], str] | None = None,
    ) -> None:
        """``worker`` is this worker's name in leases. ``received`` gets the deliveries that may be decided, and
        ``waited``, which returns immediately, those that have waited for a look at their host. ``changed`` is
        called with the hosts whose chores this worker may do, before their queues are consumed. ``emptied`` is called with a
        host whose queue was empty when everything that had come from it was passed on. ``clock`` gives microseconds,
        ``monotonic`` seconds."""
        self._store = store
        self._bus = bus
        self._worker = worker
        self._gate = Gate(received, waited)
        self._changed = changed
        self._emptied = emptied
        self._clock = clock
        self._monotonic = monotonic
        self._new_token = new_token or (lambda: runtime.random_bytes(16).hex())
        self._hosts = {host: HostStanding(name=host) for host in hosts}
        self._thread = runtime.stepped("tracker-owner", self, died, monotonic=monotonic)
        self._stopping = False
        self._round_made = runtime.condition()
        self._rounds = 0
        self._round_complete = False
        self._retry_at = 0.0
        self._history_at = 0.0
        self._served: tuple[str, ...] = ()
        self._told: frozenset[str] = frozenset()
        self._consumed: frozenset[str] = frozenset()
        self._view: tuple[list[History], dict[str, HostRecord]] | None = None

    # --- for the worker ----------------------------------------------------------------------------------------------

    def begin(self, seconds: float) -> None:
        """Look at the markers of all hosts, for at most so long. Without a broker that answers, nothing is decided. Call it
        before the bus is started; the hosts must be registered in the store."""
        self._bus.serve(())
        self._thread.start()
        with self._round_made:
            self._round_made.wait_for(lambda: self._rounds > 0 or self._stopping, seconds)

    def stop(self, timeout_seconds: float) -> None:
        """End the thread. Harmless when stopped."""
        self._stopping = True
        with self._round_made:
            self._round_made.notify_all()
        self._thread.stop(timeout_seconds)

    def served(self) -> tuple[str, ...]:
        """The hosts that this worker serves, as far as is known. Costs nothing: it is asked for with each request."""
        return self._served

    def refused(self) -> tuple[str, ...]:
        """The hosts that another ledger owns."""
        return tuple(host.name for host in self._hosts.values() if host.standing is Standing.REFUSED)

    def unserved(self) -> dict[str, str]:
        """Host -> why it is not served, as far as that was logged, of the hosts that are neither served nor refused yet, and of
        those that another ledger owns."""
        return {host.name: host.reason for host in self._hosts.values() if host.standing is not Standing.SERVED}

    def standings(self) -> dict[str, tuple[Standing, str]]:
        """What is known about each host, and why it is not served, as far as that was logged."""
        return {name: (host.standing, host.reason) for name, host in self._hosts.items()}

    def unadmitted(self) -> tuple[int, int]:
        """The number of deliveries that wait until their host was looked at, and of the bytes of their bodies."""
        return self._gate.held()

    def settled(self) -> bool:
        """Whether this worker serves a host, and it is decided about every other one."""
        since = self._monotonic() - _PENDING_SECONDS
        hosts = self._hosts.values()
        decided = all(
            host.standing is not Standing.PENDING or (host.pending_since is not None and host.pending_since < since)
            for host in hosts
        )
        return decided and self._round_complete and any(host.standing is Standing.SERVED for host in hosts)

    # --- for the bus -------------------------------------------------------------------------------------------------

    def received(self, deliveries: Sequence[Delivery]) -> None:
        """Pass on what may be decided, and keep the rest until its host was looked at."""
        if self._gate.received(deliveries):
            self._thread.wake()

    def emptied(self, host: str) -> None:
        """The bus has found the host's queue empty. Pass this on behind what has come from it and still waits here."""
        if self._gate.emptied(host):
            self._emptied(host)

    def opened(self) -> None:
        """There is a new connection."""
        self._gate.opened()
        self._forget_looks()
        self._thread.wake()

    def lost(self) -> None:
        """The connection is gone. No host is consumed on the next one before it was looked at."""
        self._gate.lost()
        self._forget_looks()
        self._consumed = frozenset()
        self._bus.serve(())

    def _forget_looks(self) -> None:
        """What was seen before the present connection was opened does not count for it."""
        self._round_complete = False
        self._retry_at = 0.0
        for host in self._hosts.values():
            host.looked, host.look_at = False, 0.0

    # --- the thread --------------------------------------------------------------------------------------------------

    def step(self, now: float) -> float | None:
        """Look at the markers that are due. Returns the seconds until the next step; None: a second."""
        connection = self._gate.connection
        if self._gate.is_lost or self._stopping:
            return None
        if now < self._retry_at:
            return self._retry_at - now
        try:
            self._round([host for host in self._hosts.values() if self._is_due(host, now)], connection, now)
        except (MarkerUnavailable, StoreUnavailable) as error:
            LOG.info("the markers of hosts cannot be looked at: %s", error)
            self._retry_at = now + _RETRY_SECONDS
        self._complete(connection)
        if connection != self._gate.connection:
            self._forget_looks()
        with self._round_made:
            self._rounds += 1
            self._round_made.notify_all()
        return _RETRY_SECONDS

    def _is_due(self, host: HostStanding, now: float) -> bool:
        if self._gate.waits(host.name):
            return True
        if host.looked and host.standing is Standing.SERVED and (host.renewed or not self._gate.admits(host.name)):
            return False
        return now >= host.look_at

    def _round(self, due: Sequence[HostStanding], connection: int, now: float) -> None:
        """Look at these hosts, at those whose markers name an earlier history of the database, and at those from which
        deliveries arrive meanwhile.

        Raises MarkerUnavailable: there is no broker. Raises StoreUnavailable: nothing is known of the database.
        """
        if now >= self._history_at:
            self._history_at = now + _HISTORY_SECONDS
            due = self._with_old_histories(due)
        if not due:
            return
        came: set[str] = set()
        waiting = self._arrived(came)
        self._read_store(required=False)
        tell_at, pause = now + _TELL_SECONDS, _TELL_SECONDS
        left = {host.name: host for host in due}
        first = False  # whether the last look was at a host of which something waited
        try:
            with self._bus.markers() as markers:
                while not self._stopping:
                    if not waiting and (waiting := self._arrived(came)):
                        # Each delivery is decided on what the store says after it.
                        self._read_store(required=False)
                    if not (waiting or left):
                        return
                    first = bool(waiting) and not (first and left)  # in turns: neither keeps the other waiting
                    name = waiting.pop() if first else next(iter(left))
                    served = self._examine(markers, self._hosts[name])
                    if first and served and self._gate.admit(name, connection):
                        self._emptied(name)
                    looked = left.pop(name, None) is not None and not left
                    if looked or self._monotonic() >= tell_at:
                        self._tell(connection)
                        pause *= 2
                        tell_at = self._monotonic() + pause
                    if looked:
                        self._complete(connection)
        finally:
            self._tell(connection)

    def _arrived(self, came: set[str]) -> list[str]:
        """The hosts whose deliveries wait and that are not among those that ``came`` before, which they then are."""
        arrived = sorted((self._gate.waiting() & self._hosts.keys()) - came, reverse=True)
        came.update(arrived)
        return arrived

    def _with_old_histories(self, due: Sequence[HostStanding]) -> Sequence[HostStanding]:
        """``due``, and the hosts that are served in a history that is over."""
        try:
            present = self._store.histories()[-1].ledger_id
        except StoreUnavailable:
            return due
        served = (host for host in self._hosts.values() if host.standing is Standing.SERVED)
        return [*due, *(host for host in served if host.ledger_id != present and host not in due)]

    def _read_store(self, *, required: bool) -> None:
        """Read the histories and the service records of the database. While the store is unavailable, those that were read last
        hold. Raises StoreUnavailable: nothing was read before, or it is ``required``."""
        try:
            self._view = self._store.histories(), {record.name: record for record in self._store.hosts()}
        except StoreUnavailable:
            if required or self._view is None:
                raise

    def _known(self, host: HostStanding) -> tuple[list[History], HostRecord]:
        """The histories of the database, and the host's service record. Raises MarkerUnavailable: an operator has removed or
        renamed the host, which nobody serves."""
        assert self._view is not None
        histories, records = self._view
        record = records.get(host.name)
        if record is None:
            raise MarkerUnavailable(NO_SUCH_HOST)
        return histories, record

    def _examine(self, markers: Markers, host: HostStanding) -> bool:
        """Look at the marker of a host, and decide whether this worker serves the host. Raises StoreUnavailable."""
        before = host.standing
        try:
            self._decide(markers, host)
        finally:
            if host.standing is not before:
                standings = self._hosts.values()
                self._served = tuple(each.name for each in standings if each.standing is Standing.SERVED)
        return host.looked and host.standing is Standing.SERVED

    def _decide(self, markers: Markers, host: HostStanding) -> None:
        now = self._monotonic()
        try:
            marker = self._look(markers, host)
            found, histories = self._owner(marker, host)
            if found not in MAY_SERVE:
                host.refuse(now, foreign(found, marker, histories[-1].ledger_id, host.name))
            elif not host.proven and markers.consumers(host.name) > 0:
                self._examine_consumer(markers, host, marker, found)
            elif host.copy_of is not None and host.copy_of[0] == marker:
                host.refuse(now, copied(marker, histories[-1].ledger_id, host.name))
            elif self._has_to_take(host, found):
                self._take(markers, host, found)
            else:
                host.serve(histories[-1].ledger_id)
                host.look_at = now + _RENEW_SECONDS
        except MarkerUnwritten:
            # Whoever else comes meanwhile sees the marker that was, or an empty one, and serves the host neither way.
            assert self._view is not None
            host.serve(self._view[0][-1].ledger_id)
            host.unwritten, host.look_at = host.unwritten or found is Owner.NOBODY, now + _RENEW_SECONDS
        except MarkerUnavailable as error:
            if host.looked and host.proven and not self._gate.waits(host.name):
                host.look_at = now + _RENEW_SECONDS  # it is served, and only its token was to be renewed
            else:
                host.wait(now, f"{error}; if it stays so: tracker-worker host adopt {host.name}")

    def _look(self, markers: Markers, host: HostStanding) -> Marker | None:
        """The marker; None also for the empty one that this process has made. Raises MarkerUnavailable."""
        try:
            return markers.look(host.name)
        except MarkerUnavailable:
            if host.unwritten:
                return None
            raise

    def _owner(self, marker: Marker | None, host: HostStanding) -> tuple[Owner, list[History]]:
        """Whose the marker is, and the histories of the database. What would refuse a host is not decided on what may be old.
        Raises StoreUnavailable."""
        for attempt in range(2):
            histories, record = self._known(host)
            found = owner(marker, histories, record)
            if found in MAY_SERVE or attempt:
                break
            self._read_store(required=True)
        return found, histories

    def _has_to_take(self, host: HostStanding, found: Owner) -> bool:
        """Whether the marker is to be written: by the first start of an owner, and by a standby that has become active."""
        blocked = self._bus.blocked() is not None
        if found is not Owner.SELF or not host.proven:
            return not (host.unwritten and host.proven and (blocked or self._gate.waits(host.name)))
        return host.looked and not self._gate.waits(host.name) and not host.renewed and not blocked

    def _take(self, markers: Markers, host: HostStanding, found: Owner) -> None:
        """Write the marker of a host. Raises MarkerUnavailable, MarkerUnwritten, StoreUnavailable."""
        histories, record = self._known(host)
        if take(self._store, markers, histories, record, new_token=self._new_token, made_empty=host.unwritten):
            host.serve(histories[-1].ledger_id)
            host.renewed, host.unwritten = True, False
        else:
            host.wait(self._monotonic(), "another worker has written its marker at this moment")

    def _examine_consumer(self, markers: Markers, host: HostStanding, marker: Marker | None, found: Owner) -> None:
        """Another worker consumes the queue of a host that this database may serve."""
        histories, record = self._known(host)
        now, ledger_id = self._monotonic(), histories[-1].ledger_id
        same = host.is_same_database(record, own=self._worker, at=self._clock(), now=now)
        if same is None:
            host.wait(now, "its queue has a consumer, and it is not yet known whether that works on this database")
        elif same and found is Owner.SELF:
            host.serve(ledger_id)
        elif same:
            self._take(markers, host, found)
        else:
            if markers.answers(host.name):
                host.copy_of = (marker,)
            host.refuse(now, copied(marker, ledger_id, host.name))

    def _complete(self, connection: int) -> None:
        """Nothing waits any more for hosts to be looked at, if every one was on this connection."""
        if not all(host.looked for host in self._hosts.values()):
            return
        self._gate.admit(SHARED, connection)
        self._gate.admit(FANOUT, connection)
        self._round_complete = connection == self._gate.connection

    def _tell(self, connection: int) -> None:
        """Have the chores done and the queues consumed of the hosts that are served, and of no others."""
        allowed = frozenset(self.served())
        if allowed != self._told:
            self._told = allowed
            self._changed(allowed)
        consumed = frozenset(name for name in allowed if self._hosts[name].looked or name in self._consumed)
        if connection != self._gate.connection or consumed == self._consumed:
            return
        self._consumed = consumed
        self._bus.serve(sorted(consumed))
        if connection != self._gate.connection:
            # On the next connection, none is consumed before it was looked at.
            self._consumed = frozenset()
            self._bus.serve(())
