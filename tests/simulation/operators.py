# SPDX-License-Identifier: Apache-2.0
"""An operator who drains, retires, renames and moves nodes, releases instances and compares them, and tidies up hosts.

Each command runs in a process of its own, which may crash, and does what the command of ``tracker-worker`` does:
``Administration`` on the database. A node gets a new name or host as doc/admin/operate.md says: the inventory, the command,
SIGHUP. What became of a command that told nothing is looked up in the database, where a node keeps its id.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from tests.invariants.record import ERROR, RESULT, UNKNOWN, Place, Request
from tests.simulation.machine import Machine, VirtualCondition
from tracker_worker.administration import Administration, Refused
from tracker_worker.domain import commands
from tracker_worker.domain.life import DRAINING, RETIRED
from tracker_worker.errors import StoreUnavailable, TrackerError
from tracker_worker.ids import NewIds
from tracker_worker.notifications.asked import asked_by
from tracker_worker.store.base import Store

if TYPE_CHECKING:
    from tests.simulation.world import World

Change = Callable[[Administration, Store], Any]

_USER = "operator"
_PAUSE_SECONDS = 4.0
_DRAIN_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
_CRASHES = 0.05
_MOVED_WHILE_DRAINED = 0.5


class Operator:
    """Works on a virtual thread until ``stop``, and then ends what is begun: no node is drained. ``moves``: the nodes that have
    got another name or host so far, from and to. ``done``: everything is ended."""

    def __init__(self, world: World, random: Random) -> None:
        self.requests: list[Request] = []
        self.moves: list[tuple[Place, Place]] = []
        self.done = False
        self.works = False
        """Whether a command runs."""
        self._world = world
        self._hardware = world.hardware
        self._random = random
        self._machine = Machine(world.stage, "operator")
        self._ids: dict[int, Place] = {}
        self._number = 0
        self._stopped = False
        self._crashing = True

    def start(self) -> None:
        self._machine.spawn(self._run)

    def stop(self) -> None:
        self._stopped = True

    def heal(self) -> None:
        """No command crashes any more."""
        self._crashing = False

    def _run(self) -> None:
        choices: dict[Callable[[], None], int] = {
            self._drain: 4,
            self._retire: 2,
            self._rename: 4,
            self._move: 4,
            self._release: 2,
            self._compare: 2,
            self._reload: 1,
            self._tidy_up: 2,
        }
        self._look_until_found()
        while not self._stopped:
            self._machine.sleep(self._random.expovariate(1 / _PAUSE_SECONDS))
            if not self._stopped:
                self._random.choices(list(choices), list(choices.values()))[0]()
        self._look_until_found()
        if self._world.set_backs:
            self._take_back()
        self.done = True

    # --- nodes -----------------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Look where the nodes are, tell clients of moves, and bring the inventory up to date. False: nobody knows."""
        listing = self._command("node list", _places)
        if listing.outcome != RESULT:
            return False
        places: dict[int, Place] = listing.reply
        if not self._ids:
            host, names = self._hardware.renamed
            first = (*((host, name) for name in names[:2]), self._first_moved())
            self._ids = {number: place for number, place in places.items() if place in first}
            if len(self._ids) < len(first):
                self._ids = {}
                return False
        self._ids = {number: place for number, place in self._ids.items() if number in places}
        for number, before in self._ids.items():
            if (now := places[number]) != before:
                self.moves.append((before, now))
                self._ids[number] = now
        self._report(self._ids.values())
        self._reload()
        return True

    def _look_until_found(self) -> None:
        while not self._look():
            self._machine.sleep(_AGAIN_SECONDS)

    def _first_moved(self) -> Place:
        node, hosts = self._hardware.moved
        return hosts[0], node

    def _report(self, places: Any) -> None:
        """Write the inventory: of the names and hosts that these nodes may have, they have these."""
        host, names = self._hardware.renamed
        node, hosts = self._hardware.moved
        for place in (*((host, name) for name in names), *((at, node) for at in hosts)):
            if place in places:
                self._hardware.put(place)
            else:
                self._hardware.take(place)

    def _drain(self) -> None:
        """Drain a node for a while. The drain stays with the node, also if it gets another name or host meanwhile."""
        reason = f"drain {self._number}"
        number = self._random.choice([None, None, *self._ids])
        host, node = self._random.choice(self._hardware.drained) if number is None else self._ids[number]
        command = commands.DrainNode(node=node, reason=reason)
        if self._decide("node drain", host, command, reason=reason).outcome == ERROR:
            return
        self._machine.sleep(self._random.random() * _DRAIN_SECONDS)
        if number is not None:
            if self._random.random() < _MOVED_WHILE_DRAINED:
                self._move() if node == self._hardware.moved[0] else self._rename(number)
            host, node = self._ids.get(number, (host, node))
        self._undrain(host, node, reason)

    def _retire(self) -> None:
        """Retire a node, if it is empty, and take it back."""
        host, node = self._hardware.retired
        if self._decide("node retire", host, commands.RetireNode(node=node, reason="")).outcome != ERROR:
            self._machine.sleep(self._random.random() * _DRAIN_SECONDS)
            self._undrain(host, node, "")

    def _undrain(self, host: str, node: str, reason: str) -> None:
        command = commands.UndrainNode(node=node)
        while self._decide("node undrain", host, command, reason=reason).outcome == UNKNOWN:
            self._machine.sleep(_AGAIN_SECONDS)

    def _take_back(self) -> None:
        """Take back what the database, which went back, does not know to be taken back. It may have a node under two names, and
        the one that is left behind is drained too."""
        for host in self._world.database.ledgers():
            for ledger in host if host.name in self._world.hosts else ():
                if ledger.life.state in (DRAINING, RETIRED):
                    self._undrain(host.name, ledger.name, ledger.life.reason)

    def _rename(self, number: int | None = None) -> None:
        """Give a node another name, that of no other node."""
        named = {each: place for each, place in self._ids.items() if place[1] in self._hardware.renamed[1]}
        if number is None or number not in named:
            number = self._random.choice(list(named))
        host, name = self._ids[number]
        taken = {place[1] for place in named.values()}
        new = self._random.choice([other for other in self._hardware.renamed[1] if other not in taken])
        self._report([place if other != number else (host, new) for other, place in self._ids.items()])
        self._command("node rename", lambda to, _: to.move_node(name, host=host, to=host, name=new), host=host)
        self._look_until_found()

    def _move(self) -> None:
        node, hosts = self._hardware.moved
        number, (host, _) = next((number, place) for number, place in self._ids.items() if place[1] == node)
        others = [other for other in hosts if other != host]
        if others:
            new = self._random.choice(others)
            self._report([place if other != number else (new, node) for other, place in self._ids.items()])
            self._command("node move", lambda to, _: to.move_node(node, host=host, to=new, name=node), host=host)
            self._look_until_found()

    # --- instances and hosts ---------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Release what an instance is charged."""
        if held := self._charged():
            host, uuid = self._random.choice(held)
            reason = f"release {self._number}"
            command = commands.ReleaseAllocation(uuid=uuid, reason=reason, released_by=_USER)
            self._decide("release_allocation", host, command, instance_uuid=uuid, reason=reason)

    def _compare(self) -> None:
        """Compare a node with some of the instances that it has, and one that it has not."""
        host, node = self._random.choice(self._hardware.fixed)
        found = [uuid for at, uuid in self._charged() if at == host and self._random.random() < 0.8]
        command = commands.CompareInstances(node=node, uuids=frozenset([*found, f"stray-{self._number}"]))
        self._decide("instance compare", host, command)

    def _charged(self) -> list[tuple[str, str]]:
        store = self._world.store
        return [(host, held.uuid) for host, _, held in store.allocations(limit=1000)]

    def _reload(self) -> None:
        """SIGHUP to every worker that is ready; another one reads everything when it starts."""
        for site in self._world.sites:
            if site.worker is not None and site.worker.ready():
                site.machine.spawn(site.worker.reload)

    def _tidy_up(self) -> None:
        """Rename or forget a host that no worker serves any more."""
        idle = [name for name in self._world.store.host_names() if name not in self._world.hosts]
        if not idle:
            return
        host = self._random.choice(idle)
        self._world.will_forget_a_host()  # one that gets the name of another one is forgotten, too
        if self._random.random() < 0.5:
            self._command("host forget", lambda to, _: to.forget_host(host))
        else:
            new = f"idle{self._random.randint(1, 3)}"
            self._command("host rename", lambda to, _: to.rename_host(host, new))

    # --- commands --------------------------------------------------------------------------------------------------------

    def _decide(self, method: str, host: str, command: commands.Command, **args: Any) -> Request:
        return self._command(method, lambda to, _: to.decide(host, command), host=host, **args)

    def _command(self, method: str, change: Change, **args: Any) -> Request:
        """Run a command in a process of its own and record it. UNKNOWN: the database was away, or the process has crashed."""
        while self._world.noticing:
            self._machine.sleep(_AGAIN_SECONDS)
        self._number += 1
        self.works = True
        process = Machine(self._world.stage, f"operator-{self._number}")
        store = self._world.linked(process, self._world.operator_link)
        told: list[tuple[str, Any, str]] = []
        ended = VirtualCondition(self._machine)
        sent_at = self._world.stage.now

        def run() -> None:
            told.append(_outcome(process, store, method, change))
            ended.notify()

        process.spawn(run)
        if self._crashing and self._random.random() < _CRASHES:
            process.later(self._random.random() * 0.001, process.crash)
        ended.wait_for(lambda: told, _COMMAND_SECONDS)
        process.crash()
        self.works = False
        outcome, reply, error = told[0] if told else (UNKNOWN, None, "")
        request = Request(
            unique_id=f"{_USER}-{self._number}",
            host=None,
            method=method,
            args=args,
            call=True,
            sent_at=sent_at,
            ended_at=self._world.stage.now,
            outcome=outcome,
            reply=reply,
            error=error,
            client=_USER,
        )
        self.requests.append(request)
        return request


def _outcome(process: Machine, store: Store, method: str, change: Change) -> tuple[str, Any, str]:
    administration = Administration(
        store,
        notify=True,
        asked=asked_by(process.name, method=method, context={"user_id": _USER}),
        new_id=NewIds(process.random_bytes),
    )
    try:
        return RESULT, change(administration, store), ""
    except StoreUnavailable:
        return UNKNOWN, None, ""
    except (Refused, TrackerError) as refusal:
        return ERROR, None, str(refusal)


def _places(_: Administration, store: Store) -> dict[int, Place]:
    """Where each node is, by its id."""
    hosts = (store.load_host(name) for name in store.host_names())
    return {ledger.id: (ledger.host, ledger.name) for host in hosts if host is not None for ledger in host}
