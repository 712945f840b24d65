# SPDX-License-Identifier: Apache-2.0
"""Any commands in any order, with successful and failed commits between them, compared with the naive ledger.

Derandomized: every run is the same, so a failure in CI can be reproduced.
"""

from __future__ import annotations

import copy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.builders import HOST, NOW, begin, inventory, node_name, put, rebuilt, snapshot, update, uuid
from tests.support.naive import NaiveHost
from tracker_worker.domain.commands import AbortClaim, ExpireClaims, FinishClaim, ReportNode
from tracker_worker.domain.decide import decide
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.views import claim_views, iso, node_view, usage_view

NODES = [node_name(1), node_name(2)]
NODE = st.sampled_from(NODES)
NUMBERS = 5
NUMBER = st.integers(1, NUMBERS)
PICK = st.integers(0, 4)
MOSTLY = st.sampled_from([True, True, True, False])
# The few values make vectors repeat and usage meet limits exactly; one value is so large that no float could hold the sum.
AMOUNT = st.sampled_from([1, 2, 3, 0, 2**53])
CEILING = st.none() | st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 10, 520, 2.5, 5.99, 2.0**53])
LIMITS = st.none() | st.fixed_dictionaries({}, optional={"memory_mb": CEILING, "disk_gb": CEILING, "vcpu": CEILING})
SIZES = {"vcpus": AMOUNT, "memory_mb": AMOUNT, "root_gb": AMOUNT, "ephemeral_gb": AMOUNT}
FACTS = {
    "vm_state": st.sampled_from(["building", "active", "error", "soft-delete", None, "shelved_offloaded", "deleted"]),
    "task_state": st.sampled_from(["spawning", "rebuilding", "image_backup", "deleting", None]),
    "os_type": st.sampled_from(["linux", "windows", None]),
    "project_id": st.sampled_from(["p", "q", None]),
    "display_name": st.sampled_from(["web", "db"]),
    "unread": st.integers(0, 1),
}
ALIVE = {**SIZES, **FACTS, "vm_state": st.sampled_from(["building", "active", "error", None])}
# The timeouts are multiples of the steps of the clock, so that the clock reaches the exact end of a claim.
TIMEOUT = st.sampled_from([10, 20])
PARAMETERS = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=250,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Ledgers(RuleBasedStateMachine):
    """Compares ``host`` with ``naive``, which is right by definition. ``rows`` is the content of a store after the last
    commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.host = HostLedger(id=1, name=HOST)
        for number, name in enumerate(NODES, 1):
            self.host.nodes[name] = NodeLedger(id=number, host=HOST, name=name)
        self.naive = NaiveHost(NODES)
        self.rows = {name: {} for name in NODES}
        self.stored = self._images()
        self.stored_naive = copy.deepcopy(self.naive)

    def _images(self):
        return {ledger.name: rebuilt(ledger) for ledger in self.host}

    def _held(self):
        return [(name, key) for name, node in self.naive.nodes.items() for key in node.held]

    def _open(self):
        return [(name, key) for name, key in self._held() if self.naive.nodes[name].held[key]["open"]]

    def _one(self, pick, same_node=True, among=None):
        """Pick a tracked instance; return its node, or with ``same_node`` False the other node, its number and its fields."""
        held = among or self._held()
        name, key = held[pick % len(held)]
        fields = dict(self.naive.nodes[name].held[key]["fields"])
        if not same_node:
            name = NODES[1 - NODES.index(name)]
        return name, int(key[-12:], 16), fields

    def _step(self, command, expected):
        """Decide ``command``, compare the decision with ``expected``, and apply and return it."""
        names, answer = expected
        before = {ledger.name: snapshot(ledger) for ledger in self.host}
        planned = decide(self.host, command, self.now)
        assert {ledger.name: snapshot(ledger) for ledger in self.host} == before
        decision = put(self.host, command, self.now)
        assert (decision.events, decision.reply) == (planned.events, planned.reply)
        assert [type(event).__name__ for event in decision.events] == names
        for ledger in self.host:
            happened = len(names) if ledger is decision.node else 0
            was = before[ledger.name]
            assert ledger.sequence == was["sequence"] + happened
            dirty = was["generation"] != was["stored_generation"]
            assert ledger.generation == ledger.stored_generation + (dirty or happened > 0)
            assert ledger.generation >= was["generation"]
            assert ledger.stored_generation == was["stored_generation"]
        for event in decision.events:
            assert event.at == self.now
        if isinstance(answer, list):
            assert decision.error.code == "insufficient_resources"
            assert decision.error.kwargs == {"shortfalls": answer}
            assert [lack.to_dict() for lack in decision.events[0].shortfalls] == answer
        elif answer in ("InvalidInput", "ClaimConflict"):
            assert type(decision.error).__name__ == answer
        elif isinstance(answer, str):
            assert decision.error is None
            assert decision.reply["state"] == answer
            assert decision.reply["generation"] == decision.node.generation
        else:
            assert decision.error is None
            assert decision.reply == answer
        return decision

    @initialize(memory_mb=st.integers(0, 3))
    def first_inventory(self, memory_mb):
        for name in NODES:
            self.inventory_is_reported(name, (4, 8, 8), memory_mb, 0)

    @rule(microseconds=st.sampled_from([10, 1]))
    def time_passes(self, microseconds):
        self.now += microseconds

    @rule(
        name=NODE,
        number=NUMBER,
        fields=st.fixed_dictionaries(ALIVE),
        limits=LIMITS,
        capacity=st.booleans(),
        timeout=TIMEOUT,
    )
    def a_claim_begins(self, name, number, fields, limits, capacity, timeout):
        due = self.now + timeout
        expected = self.naive.begin(name, {**fields, "uuid": uuid(number)}, limits, capacity, due)
        command = begin(number, node=name, limits=limits, capacity_limits=capacity, timeout=timeout, **fields)
        decision = self._step(command, expected)
        if expected == (["ClaimBegun"], "begun"):
            held = self.naive.nodes[name].held[uuid(number)]
            reply = decision.reply
            assert (reply["claim_id"], reply["node"], reply["limit_source"]) == (uuid(number), name, held["source"])
            assert (reply["resources"], reply["expires_at"]) == (held["vector"], iso(due))

    @precondition(lambda self: len(self._held()) < NUMBERS)
    @rule(name=NODE, pick=PICK, fields=st.fixed_dictionaries({**SIZES, **FACTS}), timeout=TIMEOUT)
    def a_new_instance_is_claimed_without_limits(self, name, pick, fields, timeout):
        free = [number for number in range(1, NUMBERS + 1) if self.naive.where(uuid(number)) is None]
        self.a_claim_begins(name, free[pick % len(free)], fields, None, False, timeout)

    @precondition(lambda self: self._held())
    @rule(pick=PICK, same_node=MOSTLY)
    def a_claim_is_repeated(self, pick, same_node):
        name, number, fields = self._one(pick, same_node)
        del fields["uuid"]
        self.a_claim_begins(name, number, fields, {"vcpu": 0}, False, 1)

    @rule(name=NODE, number=NUMBER, what=st.sampled_from(["finish", "abort", "update", "expire"]))
    def any_claim_is_meant(self, name, number, what):
        """Most of these claims do not exist."""
        match what:
            case "finish":
                self._finish(number)
            case "abort":
                self._abort(number)
            case "update":
                self._update(name, number, {"vm_state": "error"})
            case "expire":
                self._expire(name, number % 2 == 0)

    def _finish(self, number):
        self._step(FinishClaim(claim_id=uuid(number)), self.naive.finish(uuid(number)))

    def _abort(self, number):
        holder = self.naive.where(uuid(number))
        charged = holder and holder.held[uuid(number)]["vector"]
        decision = self._step(AbortClaim(claim_id=uuid(number)), self.naive.abort(uuid(number)))
        for event in decision.events:
            assert event.allocation.resources.to_dict() == decision.reply["resources"] == charged

    @precondition(lambda self: self._open())
    @rule(pick=PICK, abort=st.booleans())
    def an_open_claim_ends(self, pick, abort):
        _, number, _ = self._one(pick, among=self._open())
        if abort:
            self._abort(number)
        else:
            self._finish(number)

    @precondition(lambda self: self._open())
    @rule(pick=PICK, after=st.integers(0, 1), release=st.booleans())
    def an_open_claim_falls_due(self, pick, after, release):
        name, number, _ = self._one(pick, among=self._open())
        self.now = max(self.now, self.naive.nodes[name].held[uuid(number)]["due"] + after)
        self._expire(name, release)

    @precondition(lambda self: self._held())
    @rule(pick=PICK, same_node=MOSTLY, changes=st.fixed_dictionaries({}, optional={**SIZES, **FACTS}))
    def an_instance_is_updated(self, pick, same_node, changes):
        name, number, _ = self._one(pick, same_node)
        self._update(name, number, changes)
        self._update(name, number, {**changes, "unread": 2})

    @precondition(lambda self: self._held())
    @rule(pick=PICK, sizes=st.fixed_dictionaries({}, optional=SIZES))
    def an_instance_is_deleted(self, pick, sizes):
        name, number, _ = self._one(pick)
        self._update(name, number, {"vm_state": "deleted", **sizes})

    def _update(self, name, number, changes):
        held = self.naive.nodes[name].held.get(uuid(number))
        charged = held and held["vector"]
        expected = self.naive.update(name, uuid(number), changes)
        for event in self._step(update(number, node=name, **changes), expected).events:
            assert event.before.resources.to_dict() == charged
            still = self.naive.nodes[name].held.get(uuid(number))
            assert event.allocation.resources.to_dict() == (still["vector"] if still else charged)
            assert event.allocation.instance.resources == event.allocation.resources

    def _expire(self, name, release):
        node = self.naive.nodes[name]
        charged = {key: held["vector"] for key, held in node.held.items()}
        decision = self._step(ExpireClaims(node=name, release=release), self.naive.expire(name, release, self.now))
        for event in decision.events:
            assert event.released is release
            assert event.allocation.resources.to_dict() == charged[event.allocation.uuid]

    @rule(
        name=NODE,
        total=st.sampled_from([*[(4, 8, 8), (32, 1024, 100), (0, 0, 0)] * 3, None]),
        memory_mb=st.sampled_from([0, 1, 512]),
        disk_mb=st.sampled_from([0, 1, 1024, 1025]),
    )
    def inventory_is_reported(self, name, total, memory_mb, disk_mb):
        reserve = {"VCPU": 0, "MEMORY_MB": memory_mb, "DISK_GB": {0: 0, 1: 1, 1024: 1, 1025: 2}[disk_mb]}
        totals = total and dict(zip(("VCPU", "MEMORY_MB", "DISK_GB"), total, strict=True))
        reported = total and inventory(
            vcpus=total[0],
            memory_mb=total[1],
            local_gb=total[2],
            reserved_memory_mb=memory_mb,
            reserved_disk_mb=disk_mb,
        )
        self._step(ReportNode(node=name, inventory=reported), self.naive.report(name, totals, reserve))

    @rule(failed=st.sampled_from([False, False, False, True]))
    def a_commit(self, failed):
        """Commit, or drop the ledgers and read them again, as after a failed commit."""
        if not failed:
            self._commit()
            return
        for name, image in self.stored.items():
            self.host.nodes[name] = rebuilt(image)
        self.naive = copy.deepcopy(self.stored_naive)

    def _commit(self):
        for ledger in self.host:
            generation = ledger.stored_generation
            for each in ledger.touched:
                self.rows[ledger.name].pop(each, None)
                if each in ledger.allocations:
                    self.rows[ledger.name][each] = ledger.allocations[each]
            dirty = ledger.dirty
            ledger.committed()
            assert (ledger.generation, ledger.touched) == (generation + dirty, set())
            assert self.rows[ledger.name] == ledger.allocations
        self.stored, self.stored_naive = self._images(), copy.deepcopy(self.naive)

    @invariant()
    def usage_is_the_reserve_and_the_sum(self):
        for ledger in self.host:
            used = self.naive.nodes[ledger.name].used()
            assert ledger.usage.to_dict() == used
            view = node_view(ledger)
            assert (view["vcpus_used"], view["memory_mb_used"], view["local_gb_used"]) == tuple(used.values())
            for amount in (*ledger.usage.amounts, *ledger.charged.amounts):
                assert type(amount) is int
                assert amount >= 0
            total = self.naive.nodes[ledger.name].total
            assert view["free_ram_mb"] == (None if total is None else total["MEMORY_MB"] - used["MEMORY_MB"])
            assert view["free_disk_gb"] == (None if total is None else total["DISK_GB"] - used["DISK_GB"])

    @invariant()
    def statistics_equal_a_recount(self):
        for ledger in self.host:
            naive = self.naive.nodes[ledger.name]
            assert ledger.stats.to_dict() == naive.stats()
            assert ledger.stats.current_workload == naive.busy()
            assert all(count >= 0 for count in ledger.stats.to_dict().values())

    @invariant()
    def projects_equal_a_recount(self):
        for ledger in self.host:
            held = {name: (usage.instances, usage.resources.to_dict()) for name, usage in ledger.projects.items()}
            assert held == self.naive.nodes[ledger.name].projects()
        everything = usage_view(self.host)
        for project in ("p", "q", None):
            parts = [node.projects()[project] for node in self.naive.nodes.values() if project in node.projects()]
            expected = {"instances": sum(count for count, _ in parts)}
            for resource in ("VCPU", "MEMORY_MB", "DISK_GB"):
                expected[resource] = sum(part[resource] for _, part in parts)
            assert everything.get(project or "") == (expected if parts else None)

    @invariant()
    def claims_and_allocations_are_those_of_the_model(self):
        for ledger in self.host:
            naive = self.naive.nodes[ledger.name]
            charged = {key: allocation.resources.to_dict() for key, allocation in ledger.allocations.items()}
            assert charged == {key: held["vector"] for key, held in naive.held.items()}
            assert ledger.begun == naive.open() == {view["claim_id"] for view in claim_views(ledger)}
            assert ledger.disabled is (naive.total is None)

    @invariant()
    def a_rebuilt_ledger_equals_the_running_one(self):
        for ledger in self.host:
            again, running = snapshot(rebuilt(ledger)), snapshot(ledger)
            for name in ("touched", "stored_generation"):
                del again[name], running[name]
            assert again == running


TestLedgers = Ledgers.TestCase
TestLedgers.settings = PARAMETERS
