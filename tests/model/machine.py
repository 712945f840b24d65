# SPDX-License-Identifier: Apache-2.0
"""Commands in any order: hypothesis draws them and shrinks what fails.

The file is long because every command is a short rule of one class: hypothesis wants them there.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.naive_node import GPU_RATIO, GPU_STEP, Node
from tests.model.oracle import MEMORY, STALE_AFTER, Outcome
from tests.model.world import LOST, RESTARTED, TOLD, World
from tests.support.builders import NOW, inventory, uuid
from tracker_worker.domain import commands
from tracker_worker.domain.commands import BeginClaim
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import Instance, read_changes, read_instance

HOSTS = {"a": ["n1", "n2"], "b": ["n1"]}
NAMES = ["n1", "n2", "n3"]
WORLD = st.sampled_from([0, 0, 0, 1])
WORKER = st.sampled_from([0, 0, 0, 1])
HOST = st.sampled_from(["a", "a", "b"])
NUMBER = st.integers(1, 3)
PICK = st.integers(0, 5)
NAMED = st.sampled_from([*NAMES, None, None])
FATE = st.sampled_from([TOLD] * 8 + [RESTARTED, LOST])
STATE = st.sampled_from(["building", "active", "error", "shelved_offloaded", "deleted", None])
PROJECT = st.sampled_from(["p", "q", None])
# The timeouts are multiples of the steps of the clock, so that the clock reaches the exact end of a claim.
TIMEOUT = st.sampled_from([10, 20, 40])
CEILING = st.none() | st.sampled_from([0, 1, 2, 3, 5, 8, 2.5, 100 * 0.05])
GPUS = st.sampled_from([0, 0, 0, 0, 1, 2, 4])
ASK = st.fixed_dictionaries(
    {
        "vcpus": st.integers(0, 3),
        "memory_mb": st.integers(0, 3),
        "root_gb": st.integers(0, 2),
        "ephemeral_gb": st.integers(0, 2),
        "swap": st.sampled_from([0, 0, 1, 1024]),
        "gpus": GPUS,
        "vm_state": st.sampled_from(["building"] * 6 + ["active", "shelved_offloaded", "deleted"]),
        "project_id": PROJECT,
        "limits": st.fixed_dictionaries(
            {}, optional={"vcpu": CEILING, "memory_mb": CEILING, "disk_gb": CEILING, "VGPU": CEILING}
        ),
        "capacity": st.booleans(),
        "timeout": TIMEOUT,
        "node": NAMED,
        "claim_id": st.sampled_from([None, None, None, "c1", "c2", uuid(1)]),
        "on_expiry": st.sampled_from([None, None, "keep", "release"]),
    }
)
_INSTANCE = ("uuid", "vcpus", "memory_mb", "root_gb", "ephemeral_gb", "swap", "vm_state", "project_id")


def _instance(ask: dict[str, Any]) -> Instance:
    return read_instance({**{name: ask[name] for name in _INSTANCE}, "resources": {"VGPU": ask["gpus"]}})


def command(ask: dict[str, Any]) -> BeginClaim:
    return BeginClaim(
        instance=_instance(ask),
        limits=read_limits(ask["limits"]),
        timeout=ask["timeout"],
        node=ask["node"],
        capacity_limits=ask["capacity"],
        claim_id=ask["claim_id"],
        on_expiry=ask["on_expiry"],
        stale_after=STALE_AFTER,
        remembers_deletions=MEMORY,
    )


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        numbers = itertools.count(1)

        def random_bytes(size: int) -> bytes:
            return b"".join((0x9E3779B97F4A7C15 * next(numbers) % 2**64).to_bytes(8) for _ in range(size // 8))

        used: set[str] = set()
        self.worlds = [World(HOSTS, now=NOW, random_bytes=random_bytes, used=used) for _ in range(2)]
        self.touched = self.worlds[0]
        # The ids of claims that were ever told, of every world: late ends name them.
        self.told: list[str] = ["unknown"]

    def _step(self, world: int, worker: int, host: str, asked: Any, expect: Any, fate: str = TOLD) -> Decision:
        self.touched = self.worlds[world]
        decision = self.touched.step(worker, host, asked, expect, fate)
        replies = decision.reply if isinstance(decision.reply, list) else [decision.reply]
        for reply in replies:
            if isinstance(reply, dict) and "claim_id" in reply and reply["claim_id"] not in self.told[-20:]:
                self.told.append(reply["claim_id"])
        return decision

    def _node(self, world: int, host: str, pick: int) -> Node:
        nodes = sorted(self.worlds[world].oracle.hosts[host].values(), key=lambda node: node.number)
        return nodes[pick % len(nodes)]

    def _any_node(self, world: int, pick: int) -> Node:
        nodes = sorted(self.worlds[world].oracle.nodes(), key=lambda node: node.number)
        return nodes[pick % len(nodes)]

    @initialize()
    def first_inventories(self) -> None:
        for world in (0, 1):
            for node in self.worlds[world].oracle.nodes():
                self._look(world, 0, node.host, node.name, (4, 8, 8), 1, None)

    # --- the clock, processes and databases --------------------------------------------------------------------------

    @rule(world=WORLD, by=st.sampled_from([1, 10, 10, 10, 40, -1, -10, -1000, 100_000]))
    def the_clock_goes_on_or_steps(self, world: int, by: int) -> None:
        self.worlds[world].now += by

    @rule(world=WORLD, worker=WORKER)
    def a_worker_starts_anew(self, world: int, worker: int) -> None:
        self.worlds[world].workers[worker].forget(HOSTS)

    @rule(world=WORLD)
    def a_backup_is_made(self, world: int) -> None:
        self.worlds[world].back_up()

    @rule(world=WORLD, restore=st.booleans(), really=st.sampled_from([False, False, True]))
    def a_database_goes_on_in_a_new_history(self, world: int, restore: bool, really: bool) -> None:
        if really:
            self.touched = self.worlds[world]
            self.touched.go_on(restore=restore)

    # --- claims ------------------------------------------------------------------------------------------------------

    @rule(world=WORLD, worker=WORKER, host=HOST, number=NUMBER, ask=ASK, fate=FATE)
    def a_claim_begins(self, world: int, worker: int, host: str, number: int, ask: dict[str, Any], fate: str) -> None:
        self._begin(world, worker, host, {**ask, "uuid": uuid(number)}, fate)

    @rule(world=WORLD, worker=WORKER, host=HOST, number=NUMBER, pick=PICK, ask=ASK, fate=FATE)
    def a_small_claim_begins_on_a_node(
        self, world: int, worker: int, host: str, number: int, pick: int, ask: dict[str, Any], fate: str
    ) -> None:
        plain = {"limits": {}, "capacity": False, "vm_state": "building", "node": self._node(world, host, pick).name}
        self._begin(world, worker, host, {**ask, **plain, "uuid": uuid(number)}, fate)

    @rule(world=WORLD, worker=WORKER, pick=PICK, asks=st.tuples(ASK, ASK))
    def claims_begin_where_there_is_room(
        self, world: int, worker: int, pick: int, asks: tuple[dict[str, Any], dict[str, Any]]
    ) -> None:
        oracle = self.worlds[world].oracle
        for number, ask in enumerate(asks, pick):
            name = uuid(1 + number % 3)
            takes = [n for n in oracle.nodes() if n.state() == "open" and oracle.where(n.host, name) is None]
            if takes:
                node = takes[pick % len(takes)]
                plain = {"limits": {}, "capacity": False, "claim_id": None, "vm_state": "building", "node": node.name}
                self._begin(world, worker, node.host, {**ask, **plain, "uuid": name}, TOLD)

    @rule(world=WORLD, worker=WORKER, host=HOST, pick=PICK, ask=ASK, named=st.booleans())
    def a_claim_is_repeated(
        self, world: int, worker: int, host: str, pick: int, ask: dict[str, Any], named: bool
    ) -> None:
        held = [(n, c) for n in self.worlds[world].oracle.hosts[host].values() for c in n.held.values()]
        if held:
            node, charge = held[pick % len(held)]
            same = {"vcpus": charge.vector["VCPU"], "memory_mb": charge.vector["MEMORY_MB"], "swap": 0}
            same["gpus"] = charge.vector.get("VGPU", 0)
            same |= {"root_gb": charge.vector["DISK_GB"], "ephemeral_gb": 0, "node": node.name if named else None}
            self._begin(world, worker, host, {**ask, **same, "uuid": charge.uuid}, TOLD)

    def _begin(self, world: int, worker: int, host: str, ask: dict[str, Any], fate: str) -> None:
        oracle_of = self.worlds[world]

        def expect(decision: Decision) -> Outcome:
            claim_id = decision.reply["claim_id"] if decision.reply else ""
            return oracle_of.oracle.begin(host, ask, oracle_of.now, claim_id)

        decision = self._step(world, worker, host, command(ask), expect, fate)
        if fate != LOST and decision.events and decision.reply and ask["claim_id"] is not None:
            assert decision.reply["claim_id"] == ask["claim_id"]

    @rule(world=WORLD, worker=WORKER, host=HOST, numbers=st.tuples(NUMBER, NUMBER), asks=st.tuples(ASK, ASK))
    def a_group_begins(
        self, world: int, worker: int, host: str, numbers: tuple[int, int], asks: tuple[dict[str, Any], dict[str, Any]]
    ) -> None:
        group = [{**ask, "uuid": uuid(number)} for number, ask in zip(numbers, asks, strict=True)]
        of = self.worlds[world]

        def expect(decision: Decision) -> Outcome:
            ids = {claim["instance_uuid"]: claim["claim_id"] for claim in decision.reply or () if claim}
            return of.oracle.begin_all(host, group, of.now, ids)

        self._step(world, worker, host, commands.BeginClaims(claims=tuple(map(command, group))), expect)

    def _name(self, number: int, pick: int, by_uuid: bool) -> str:
        """An instance's uuid, or the id of a claim that was told lately; it may have ended, or be another database's."""
        return uuid(number) if by_uuid else self.told[-1 - pick % len(self.told)]

    @rule(
        world=WORLD, worker=WORKER, host=HOST, number=NUMBER, pick=PICK, by_uuid=st.booleans(), fate=FATE, timeout=TIMEOUT,
        end=st.sampled_from(["finish", "abort", "renew"]),
    )  # fmt: skip
    def a_claim_ends_or_is_renewed(
        self,
        world: int,
        worker: int,
        host: str,
        number: int,
        pick: int,
        by_uuid: bool,
        fate: str,
        timeout: int,
        end: str,
    ) -> None:
        name, of = self._name(number, pick, by_uuid), self.worlds[world]
        asked, expect = {
            "finish": (commands.FinishClaim(claim_id=name), lambda _: of.oracle.finish(host, name)),
            "abort": (commands.AbortClaim(claim_id=name), lambda _: of.oracle.abort(host, name)),
            "renew": (
                commands.RenewClaim(claim_id=name, timeout=timeout),
                lambda _: of.oracle.renew(host, name, timeout, of.now),
            ),
        }[end]
        decision = self._step(world, worker, host, asked, expect, fate)
        if decision.reply is not None:
            assert name in (decision.reply["claim_id"], decision.reply["instance_uuid"])

    @rule(world=WORLD, worker=WORKER, host=HOST, pick=PICK, release=st.booleans(), fate=FATE)
    def claims_expire(self, world: int, worker: int, host: str, pick: int, release: bool, fate: str) -> None:
        node, of = self._node(world, host, pick), self.worlds[world]
        asked = commands.ExpireClaims(node=node.name, release=release)
        due = {charge.uuid for charge in node.held.values() if charge.state == "begun" and of.now > charge.due}
        decision = self._step(
            world, worker, host, asked, lambda _: of.oracle.expire(host, node.name, release, of.now), fate
        )
        assert fate == LOST or {event.allocation.uuid for _, event in decision.events} == due

    @rule(world=WORLD, worker=WORKER, pick=PICK, after=st.integers(0, 1), release=st.booleans())
    def an_open_claim_falls_due(self, world: int, worker: int, pick: int, after: int, release: bool) -> None:
        of = self.worlds[world]
        begun = [(n, c) for n in of.oracle.nodes() for c in n.held.values() if c.state == "begun"]
        if begun:
            node, charge = begun[pick % len(begun)]
            host, name = node.place
            of.now = max(of.now, charge.due + after)
            asked = commands.ExpireClaims(node=name, release=release)
            self._step(world, worker, host, asked, lambda _: of.oracle.expire(host, name, release, of.now))

    @rule(world=WORLD, worker=WORKER, pick=PICK, state=STATE, by_uuid=st.booleans(), end=st.booleans())
    def a_charged_instance_is_reported_or_its_claim_ends(
        self, world: int, worker: int, pick: int, state: str | None, by_uuid: bool, end: bool
    ) -> None:
        of = self.worlds[world]
        held = [(n.host, c) for n in of.oracle.nodes() for c in n.held.values()]
        if held:
            host, charge = held[pick % len(held)]
            if not end:
                self._update(world, worker, host, charge.uuid, None, {"vm_state": state}, TOLD)
                return
            name = charge.uuid if by_uuid else charge.claim_id
            self._step(world, worker, host, commands.AbortClaim(claim_id=name), lambda _: of.oracle.abort(host, name))

    @rule(world=WORLD, worker=WORKER, pick=PICK, ask=ASK, state=STATE, release=st.booleans(), by_uuid=st.booleans())
    def a_claim_is_reported_on_falls_due_and_ends_late(
        self, world: int, worker: int, pick: int, ask: dict[str, Any], state: str | None, release: bool, by_uuid: bool
    ) -> None:
        self.claims_begin_where_there_is_room(world, worker, pick, (ask, ask))
        self.a_charged_instance_is_reported_or_its_claim_ends(world, worker, pick, state, by_uuid, False)
        self.an_open_claim_falls_due(world, worker, pick, 1, release)
        self.a_charged_instance_is_reported_or_its_claim_ends(world, worker, pick, None, by_uuid, True)

    # --- instances ---------------------------------------------------------------------------------------------------

    @rule(
        world=WORLD, worker=WORKER, host=HOST, number=NUMBER, named=NAMED, fate=FATE,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "vm_state": STATE,
                "vcpus": st.integers(0, 9),
                "project_id": PROJECT,
                "resources": st.none() | st.fixed_dictionaries({"VGPU": st.integers(0, 3)}),
            },
        ),
    )  # fmt: skip
    def an_instance_is_updated(
        self, world: int, worker: int, host: str, number: int, named: str | None, fate: str, changes: dict[str, Any]
    ) -> None:
        self._update(world, worker, host, uuid(number), named, changes, fate)

    def _update(
        self, world: int, worker: int, host: str, name: str, named: str | None, changes: dict[str, Any], fate: str
    ) -> None:
        of = self.worlds[world]
        read = read_changes({"uuid": name, **changes})
        asked = commands.UpdateUsage(uuid=name, changes=read, node=named, notes_deletions=True)
        self._step(world, worker, host, asked, lambda _: of.oracle.update(host, name, named, changes, of.now), fate)

    @rule(world=WORLD, worker=WORKER, host=HOST, numbers=st.tuples(NUMBER, NUMBER), asks=st.tuples(ASK, ASK), fate=FATE)
    def instances_are_adopted(
        self,
        world: int,
        worker: int,
        host: str,
        numbers: tuple[int, int],
        asks: tuple[dict[str, Any], dict[str, Any]],
        fate: str,
    ) -> None:
        asked = [{**ask, "uuid": uuid(number)} for number, ask in zip(numbers, asks, strict=True)]
        entries = tuple(
            commands.AdoptInstance(uuid=ask["uuid"], instance=_instance(ask), node=ask["node"]) for ask in asked
        )
        of = self.worlds[world]

        def expect(decision: Decision) -> Outcome:
            ids = {event.allocation.uuid: event.allocation.claim_id for _, event in decision.events}
            return of.oracle.adopt(host, asked, of.now, ids)

        order = commands.AdoptInstances(entries=entries, remembers_deletions=MEMORY)
        self._step(world, worker, host, order, expect, fate)

    @rule(world=WORLD, worker=WORKER, host=HOST, number=NUMBER, fate=FATE)
    def an_operator_releases(self, world: int, worker: int, host: str, number: int, fate: str) -> None:
        asked = commands.ReleaseAllocation(uuid=uuid(number), reason="x", released_by="u")
        of = self.worlds[world]
        self._step(world, worker, host, asked, lambda _: of.oracle.release(host, uuid(number)), fate)

    @rule(world=WORLD, worker=WORKER, host=HOST, pick=PICK, numbers=st.sets(NUMBER))
    def what_runs_is_reported(self, world: int, worker: int, host: str, pick: int, numbers: set[int]) -> None:
        name, of = self._node(world, host, pick).name, self.worlds[world]
        uuids = {uuid(number) for number in numbers}
        asked = commands.CompareInstances(node=name, uuids=frozenset(uuids))
        self._step(world, worker, host, asked, lambda _: of.oracle.compare(host, name, uuids))

    @rule(world=WORLD, worker=WORKER, host=HOST, most=st.integers(0, 3))
    def deletions_are_forgotten(self, world: int, worker: int, host: str, most: int) -> None:
        of = self.worlds[world]
        asked = commands.ForgetDeletions(reported_before=of.now - MEMORY, most=most)
        self._step(world, worker, host, asked, lambda _: of.oracle.forget(host, of.now - MEMORY, most))

    # --- nodes -------------------------------------------------------------------------------------------------------

    @rule(
        world=WORLD, worker=WORKER, host=HOST, pick=PICK, memory=st.integers(0, 2), failure=st.sampled_from([None, "x"]),
        total=st.sampled_from([(4, 8, 8), (32, 64, 64), (4, 8, 8, 2)] + [(32, 64, 64, 8)] * 4 + [None]), fate=FATE,
    )  # fmt: skip
    def a_node_is_looked_at(
        self, world: int, worker: int, host: str, pick: int, memory: int, failure: str | None, total: Any, fate: str
    ) -> None:
        self._look(world, worker, host, self._node(world, host, pick).name, total, memory, failure, fate)

    def _look(
        self,
        world: int,
        worker: int,
        host: str,
        name: str,
        total: Any,
        memory: int,
        failure: str | None,
        fate: str = TOLD,
    ) -> None:
        of = self.worlds[world]
        sizes: dict[str, Any] = dict(zip(("vcpus", "memory_mb", "local_gb"), total or (), strict=False))
        if total and len(total) > 3:
            gpus = {"total": total[3], "allocation_ratio": GPU_RATIO, "step_size": GPU_STEP}
            sizes["resources"] = {"VGPU": gpus}
        found = inventory(reserved_memory_mb=memory, **sizes) if total else None
        asked = commands.ReportNode(node=name, inventory=found, failure=None if total else failure)
        totals = total and dict(zip(("VCPU", "MEMORY_MB", "DISK_GB", "VGPU"), total, strict=False))
        reserve = {"VCPU": 0, "MEMORY_MB": memory, "DISK_GB": 0}
        self._step(
            world, worker, host, asked,
            lambda decision: of.oracle.look(host, name, totals, reserve, failure is not None, of.now, decision), fate,
        )  # fmt: skip

    @rule(world=WORLD, worker=WORKER, host=HOST, listed=st.sampled_from([set(NAMES)] * 5 + [{"n1"}, {"n2", "n3"}]))
    def nodes_are_listed(self, world: int, worker: int, host: str, listed: set[str]) -> None:
        of = self.worlds[world]
        asked = commands.ReportList(nodes=frozenset(listed))
        self._step(world, worker, host, asked, lambda decision: of.oracle.list(host, listed, decision))

    @rule(
        world=WORLD, worker=WORKER, host=HOST, pick=PICK,
        what=st.sampled_from(["undrain"] * 4 + ["here"] * 3 + ["drain", "retire", "elsewhere"]),
    )  # fmt: skip
    def an_operator_or_another_host_says_something(
        self, world: int, worker: int, host: str, pick: int, what: str
    ) -> None:
        name, of = self._node(world, host, pick).name, self.worlds[world]
        asked = {
            "drain": commands.DrainNode(node=name, reason="x"),
            "undrain": commands.UndrainNode(node=name),
            "retire": commands.RetireNode(node=name, reason="x"),
            "elsewhere": commands.NoteElsewhere(node=name, host="z"),
            "here": commands.NoteElsewhere(node=name, host=None),
        }[what]
        self._step(world, worker, host, asked, lambda decision: of.oracle.say(host, name, what, decision))

    @rule(world=WORLD, worker=WORKER, host=HOST)
    def a_host_recovers(self, world: int, worker: int, host: str) -> None:
        names = list(self.worlds[world].oracle.hosts[host])
        self.nodes_are_listed(world, worker, host, set(names))
        for pick, name in enumerate(names):
            self._look(world, worker, host, name, (32, 64, 64, 8), 1, None)
            for what in ("undrain", "here"):
                self.an_operator_or_another_host_says_something(world, worker, host, pick, what)

    @rule(world=WORLD, pick=PICK, to=HOST, name=st.sampled_from(NAMES))
    def a_node_moves(self, world: int, pick: int, to: str, name: str) -> None:
        of = self.touched = self.worlds[world]
        node = self._any_node(world, pick)
        if len(of.oracle.hosts[node.host]) == 1 and to != node.host:
            return  # each host keeps a node
        host, old = node.place
        error = of.administer(lambda operator: operator.move_node(old, host=host, to=to, name=name))
        assert error == of.oracle.move(host, old, to, name)
        of.listen()  # the node has the times of another stream now

    @invariant()
    def everything_agrees(self) -> None:
        self.touched.check()
