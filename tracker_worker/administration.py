# SPDX-License-Identifier: Apache-2.0
"""What an operator does to nodes, hosts and instances. Each change is one commit in the database, whether workers run or not.

A worker notices a change because the generations of the nodes have risen: its next commit on them fails, and it reads them
again.

Events belong to the name of a node (see ``store.base.Stream``). A node that gets another name or host leaves its stream with an
event that names the next one, and continues the stream of its new name with an event that names the previous one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from msgspec.structs import replace

from tracker_worker.domain.commands import Command
from tracker_worker.domain.events import DeletionNoted, LifeNoted, MoveNoted, NodeUpdated
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.inventory import Inventory, read_node_name
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import Life, renewed
from tracker_worker.errors import ClaimConflict, NodeBusy
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import PLAIN, Style
from tracker_worker.store.base import Commit, Conflict, NodeMove, Store, Stream, StreamEnd, serving
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.text import counted
from tracker_worker.unit_of_work import UnitOfWork

Result = TypeVar("Result")

# Another writer that commits at the same time costs an attempt.
_MOST_ATTEMPTS = 50
_MOST_MOVES = 1000
_EVER = 2**62
"""No time comes after it. Microseconds."""


class Refused(Exception):
    """The change cannot be made now. The text is one sentence for the operator."""


class Administration:
    """Belongs to one thread. Every method raises StoreUnavailable, and Refused if other writers were first again and again."""

    def __init__(
        self, store: Store, *, notify: bool, style: Style = PLAIN, asked: bytes = b"{}", new_id: NewIds | None = None
    ) -> None:
        """``notify`` and ``style`` are those of the workers. ``asked``: the operator, as the outbox keeps it."""
        self._store = store
        self._notify = notify
        self._style = style
        self._asked = asked
        self._new_id = new_id or NewIds()

    def decide(self, host: str, command: Command) -> Any:
        """Decide ``command`` on a host's ledgers, commit it, and return its reply. Raises the refusal of the command, and
        Refused: there is no such host."""
        return self._repeated(lambda: self._decide(host, command))

    def move_node(self, node: str, *, host: str, to: str, name: str) -> NodeLedger:
        """Give a node, with all that it is charged, the host ``to`` and the ``name``, and return it.

        Raises NodeNotFound. Raises Refused: there is no such host, the node has this place already, or it is to leave its host
        while instances move that it is charged for, or for which it keeps the record. Raises NodeBusy: there
        is a node of this name, which is charged. Raises ClaimConflict: another node of the host ``to`` is charged for an
        instance of this node, or has a claim of the same id. Raises InvalidInput: no node can have this name.
        """
        read_node_name(name)
        return self._repeated(lambda: self._move_node(node, host, to, name))

    def rename_host(self, old: str, new: str) -> None:
        """Give all nodes of the host ``old`` to the host ``new``, which is made if it does not exist. The host ``old`` is
        forgotten.

        Raises Refused: there is no host ``old``, a worker serves one of the two, or ``new`` is charged for instances.
        """
        self._repeated(lambda: self._rename_host(old, new))

    def forget_host(self, name: str) -> None:
        """Delete a host with its nodes. Their streams stay.

        Raises Refused: there is no such host, a worker serves it, or it is charged for instances.
        """
        self._repeated(lambda: self._forget_host(name))

    def _repeated(self, change: Callable[[], Result]) -> Result:
        for _ in range(_MOST_ATTEMPTS):
            try:
                return change()
            except Conflict as conflict:
                lost = conflict
        raise Refused(f"other writers were first {_MOST_ATTEMPTS} times: {lost}")

    def _decide(self, host: str, command: Command) -> Any:
        ledgers, unit = self._unit()
        decision = unit.decide(self._host(ledgers, host), command, self._store.time())
        if unit.changed:
            unit.commit()
        if decision.error is not None:
            raise decision.error
        return decision.reply

    def _move_node(self, node: str, host: str, to: str, name: str) -> NodeLedger:
        ledgers, unit = self._unit()
        source = self._host(ledgers, host)
        target = self._host(ledgers, to)
        moved = source.node(node)
        if source is target and name == node:
            raise Refused(f"node {node} of host {host} has this name already")
        with _Rearrangement(
            self._store, unit, target, to, self._store.time(), notify=self._notify
        ).committed() as rearrangement:
            # Before ``move``, which gives the node the generation of its new name.
            if source is target:
                rearrangement.rename_in_moves(source, node, name)
            else:
                self._check_at_rest(moved, source)
                self._check_told(source, moved.allocations)
                rearrangement.leave(moved, source)
            _check_no_part_told(moved)
            rearrangement.move(moved, name)
        return moved

    def _check_at_rest(self, node: NodeLedger, host: HostLedger) -> None:
        """The two sides of a move know each other by their hosts, and a host decides on its side as a whole."""
        moving = {uuid for uuid, _ in node.moving} | self._store.incoming(list(node.allocations)).keys()
        for ledger in host:
            for move in ledger.moves.values():
                if move.open and (ledger is node or move.instance_uuid in node.allocations):
                    moving.add(move.instance_uuid)
        if moving:
            what = f"{counted(len(moving), 'instance')} of node {node.name} of host {host.name} are moving"
            raise Refused(f"{what}: finish, confirm, revert or abort that first: {', '.join(sorted(moving))}")

    def _check_told(self, host: HostLedger, uuids: Collection[str] | None = None) -> None:
        """The destination of a move knows its source by the name of the host. ``uuids`` None: of all instances."""
        moves = self._store.untold_moves(from_host=host.name, limit=_MOST_MOVES)
        if left := [move.id for move in moves if move.handed_over and (uuids is None or move.instance_uuid in uuids)]:
            raise Refused(
                f"host {host.name} was not told that instances have left it: let its worker start, or "
                f"'tracker-worker move finish' {', '.join(left)}"
            )

    def _rename_host(self, old: str, new: str) -> None:
        ledgers, unit = self._unit()
        source = self._host(ledgers, old)
        if old == new:
            raise Refused(f"host {old} has this name already")
        self._check_idle(old)
        self._check_told(source)
        for ledger in source:
            self._check_at_rest(ledger, source)
        target = ledgers.find(new)
        if target is not None:
            self._check_idle(new)
            _check_empty(target)
        now = self._store.time()
        with _Rearrangement(
            self._store, unit, target or source, new, now, notify=self._notify
        ).committed() as rearrangement:
            if target is None:
                rearrangement.host_names[source.id] = new
            for ledger in list(source):
                _check_no_part_told(ledger)
                rearrangement.move(ledger, ledger.name)
        if target is not None:
            self._store.forget_host(source.id)

    def _forget_host(self, name: str) -> None:
        ledgers, _ = self._unit()
        host = self._host(ledgers, name)
        self._check_idle(name)
        _check_empty(host)
        for ledger in host if self._notify else ():
            _check_usage_told(self._store, ledger)
        self._store.forget_host(host.id)

    def _unit(self) -> tuple[Ledgers, UnitOfWork]:
        """The ledgers as they are now, and a unit of work on them."""
        ledgers = Ledgers(self._store)
        unit = UnitOfWork(
            self._store, ledgers, notify=self._notify, new_id=self._new_id, style=self._style, asked=self._asked
        )
        return ledgers, unit

    def _host(self, ledgers: Ledgers, name: str) -> HostLedger:
        host = ledgers.find(name)
        if host is None:
            raise Refused(f"the database has no host {name}")
        return host

    def _check_idle(self, name: str) -> None:
        now = self._store.time()
        for record in self._store.hosts():
            if record.name == name and (owner := serving(record, now)) is not None:
                raise Refused(f"host {name} is served by worker {owner}: stop it first")


class _Rearrangement:
    """The nodes that one commit gives, at ``now``, to the host ``target``, which has the name ``host`` afterwards."""

    def __init__(
        self, store: Store, unit: UnitOfWork, target: HostLedger, host: str, now: int, *, notify: bool
    ) -> None:
        self._notify = notify
        self._store = store
        self._unit = unit
        self._target = target
        self._host = host
        self._now = now
        self._generations = {ledger.id: ledger.stored_generation for ledger in target}
        self._moves: list[NodeMove] = []
        self._ended: list[StreamEnd] = []
        self._dropped: list[int] = []
        self.host_names: dict[int, str] = {}

    @contextmanager
    def committed(self) -> Iterator[_Rearrangement]:
        """Commit at the end of the block. Raises Conflict."""
        yield self
        # The generations of the host's other nodes rise too: a worker that knows nothing of the new ones decides nothing on
        # them.
        gone = {*self._dropped, *(move.node_id for move in self._moves)}
        for other in self._target:
            if other.id not in gone:
                self._unit.apply(other, LifeNoted(at=self._now, life=other.life))
        self._unit.commit(write=self._write)

    def _write(self, commit: Commit) -> None:
        self._store.commit(
            replace(
                commit,
                # A node that is replaced may have been told of the new name, for the moves that it knows.
                ledgers=[ledger for ledger in commit.ledgers if ledger.id not in self._dropped],
                verified={**commit.verified, self._target.id: self._generations},
                dropped_nodes=self._dropped,
                host_names=self.host_names,
                moves=self._moves,
                ended_streams=self._ended,
            )
        )

    def leave(self, ledger: NodeLedger, source: HostLedger) -> None:
        """Have another node of the host ``source``, which the node leaves, remember what the host was told: the deletions,
        which may be of instances that come to its other nodes, and the moves by which instances have left it."""
        other = next((other for other in source if other is not ledger), None)
        if other is not None:
            for uuid, at in ledger.deletions.items():
                self._unit.apply(other, DeletionNoted(at=at, uuid=uuid))
            for move in ledger.moves.values():
                if move.leaves:
                    self._unit.apply(other, MoveNoted(at=self._now, move=move))

    def rename_in_moves(self, host: HostLedger, old: str, new: str) -> None:
        """Have the host's records of moves name the node as it is called now."""
        for ledger in host:
            for move in list(ledger.moves.values()):
                names: dict[str, str] = {}
                if move.to_host == host.name and move.to_node == old:
                    names["to_node"] = new
                if move.from_host == host.name and move.from_node == old:
                    names["from_node"] = new
                if names:
                    self._unit.apply(ledger, MoveNoted(at=self._now, move=replace(move, **names)))

    def move(self, ledger: NodeLedger, name: str) -> None:
        """Give the node its new place and name. Raises NodeBusy, ClaimConflict: see ``Administration.move_node``."""
        replaced = self._target.nodes.get(name)
        if replaced is ledger:
            replaced = None  # the host itself gets another name
        if replaced is not None:
            _check_node_empty(replaced)
            if self._notify:
                _check_usage_told(self._store, replaced)
            self._dropped.append(replaced.id)
        _check_charges(ledger, self._target)
        stream = self._stream(name)
        # Neither name sees a generation that falls.
        stored = ledger.stored_generation
        known = stream.generation if replaced is None else replaced.stored_generation
        ledger.stored_generation = max(stored, known)
        before = {"previous_host": ledger.host, "previous_node": ledger.name}
        self._tell(ledger, ledger.inventory, ledger.life, {"next_host": self._host, "next_node": name})
        self._ended.append(
            StreamEnd(
                stream_id=ledger.stream_id,
                sequence=ledger.sequence,
                occurred_at=ledger.last_at,
                generation=ledger.next_generation,
            )
        )
        ledger.host, ledger.host_id, ledger.name = self._host, self._target.id, name
        ledger.stream_id, ledger.sequence = stream.id, stream.sequence
        ledger.last_at = max(ledger.last_at, stream.last_at)  # its charges began by its own time
        inventory, life = _joined(ledger, replaced, ledger.time(self._now))
        self._tell(ledger, inventory, life, before)
        for uuid, at in () if replaced is None else replaced.deletions.items():
            if at > ledger.deletions.get(uuid, 0):
                self._unit.apply(ledger, DeletionNoted(at=at, uuid=uuid))
        ledger.stored_generation = stored
        self._moves.append(NodeMove(node_id=ledger.id, host_id=self._target.id, name=name, stream_id=stream.id))

    def _stream(self, name: str) -> Stream:
        stream_id = self._store.stream_id(self._host, name)
        return next(stream for stream in self._store.streams(self._host) if stream.id == stream_id)

    def _tell(self, ledger: NodeLedger, inventory: Inventory | None, life: Life, more: Mapping[str, str | int]) -> None:
        at = ledger.time(self._now)
        self._unit.apply(ledger, NodeUpdated(at=at, inventory=inventory, life=life, more=more))


def _joined(ledger: NodeLedger, replaced: NodeLedger | None, at: int) -> tuple[Inventory | None, Life]:
    """What is known of a node that takes the place of another one, which the driver may list under this name already. What an
    operator has said of either holds, except that the empty one was retired."""
    life, inventory = replace(ledger.life, elsewhere=None), ledger.inventory
    if replaced is not None:
        known = replaced.life
        life = replace(life, listed=known.listed, draining=life.draining or known.draining)
        if known.look is not None:
            life = replace(life, look=known.look, silent_since=known.silent_since, silent_reason=known.silent_reason)
            inventory = replaced.inventory or inventory
    return inventory, renewed(life, has_inventory=inventory is not None, at=at)


def _check_charges(ledger: NodeLedger, target: HostLedger) -> None:
    """No two claims of a host have one name, which is the claim's id or its instance's uuid; no instance is incoming or on hold
    twice; and none is charged that moves to or from the host."""
    for (uuid, role), held in ledger.moving.items():
        found = target.charge(uuid, role)
        if found is not None and found[0] is not ledger:
            reason = f"node {ledger.name} of host {ledger.host} has it as {held.role} for a move too"
            raise ClaimConflict(instance_uuid=uuid, node=found[0].name, reason=reason)
    for uuid in ledger.allocations:
        for holder, held in target.moving(uuid):
            if ledger.host_id != target.id:
                reason = f"it is {held.role} on node {holder.name} of host {target.name}, for a move"
                raise ClaimConflict(instance_uuid=uuid, node=holder.name, reason=reason)
    for name in (*ledger.allocations, *ledger.claims):
        found = target.named(name)
        if found is not None and found[0] is not ledger:
            holder, held = found
            charged = "is charged for it" if name == held.uuid else f"has a claim of the name {name}"
            reason = f"node {ledger.name} of host {ledger.host} {charged} too"
            raise ClaimConflict(instance_uuid=held.uuid, node=holder.name, reason=reason)


def _check_no_part_told(ledger: NodeLedger) -> None:
    """A period is told under one name."""
    if ledger.periods.exists:
        raise Refused(
            f"a period of node {ledger.name} of host {ledger.host} is being told to billing: wait until a worker has closed it"
        )


def _check_usage_told(store: Store, ledger: NodeLedger) -> None:
    """Raises Refused: what the node was charged is not told to billing yet."""
    left = store.billed(ledger.id, beginning=ledger.periods.until if ledger.periods.first else 0, ending=_EVER)
    if left:
        raise Refused(
            f"what node {ledger.name} of host {ledger.host} was charged for {counted(len(left), 'instance')} is not told "
            "to billing yet: wait until a worker has closed the period ([notifications] usage_audit_period)"
        )


def _check_empty(host: HostLedger) -> None:
    uuids = sorted({uuid for ledger in host for uuid in ledger.instances})
    if uuids:
        raise Refused(f"host {host.name} is charged for {counted(len(uuids), 'instance')}: {', '.join(uuids)}")


def _check_node_empty(ledger: NodeLedger) -> None:
    if charged := ledger.instances:
        raise NodeBusy(host=ledger.host, node=ledger.name, instances=charged)
