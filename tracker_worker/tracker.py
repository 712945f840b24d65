# SPDX-License-Identifier: Apache-2.0
"""The resource tracker as a library: in one process, without a bus, on the same ledger and stores as the worker.

The names and the behaviour are those of the compute resource tracker of 2012, whose manager held one tracker per node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from uuid import uuid4

from oslo_config import cfg

from tracker_worker.conf import register_opts
from tracker_worker.domain import commands, views
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.decide import Decision, decide
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import Instance, read_changes, read_instance
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.stats import Stats
from tracker_worker.domain.times import SECOND
from tracker_worker.domain.values import read_amount, read_timeout
from tracker_worker.errors import ComputeResourcesUnavailable, NodeNotFound
from tracker_worker.fairlock import FairLock
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.notifications.render import render
from tracker_worker.service.methods import owner_of
from tracker_worker.service.policy import Policy, read_policy
from tracker_worker.store.base import Commit, Conflict, Store
from tracker_worker.store.memory import MemoryStore

LOG = logging.getLogger(__name__)

_RETRIES = 10

Context = Any
"""A request context: a mapping with project_id and user_id, an object with ``to_dict()``, or None."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A snapshot of what an instance was charged. ``expire_ts`` in seconds since the epoch; sizes in MB and GB."""

    claim_id: str
    memory_mb: int
    disk_gb: int
    vcpus: int
    expire_ts: float
    clock: Callable[[], float] = time.time

    def is_expired(self) -> bool:
        """Strictly after its time."""
        return self.clock() > self.expire_ts

    def __str__(self) -> str:
        return f"[Claim {self.claim_id}: {self.memory_mb} MB memory, {self.disk_gb} GB disk, {self.vcpus} VCPUs]"


class ResourceTracker:
    """Keeps the ledger of one node. Any method may be called from any thread; operations on the node exclude each other and
    are served in order of arrival, and the driver is asked outside of that.

    :param host: the compute host.
    :param driver: what says what the node has.
    :param node: the node of that host; None: the driver's only node.
    :param store: where the ledger is kept; None: in memory. The host gets its service record there.
    :param conf: options of ``[tracker]``; None: the defaults.
    :param clock: seconds since the epoch.
    """

    def __init__(
        self,
        host: str,
        driver: InventoryDriver,
        *,
        node: str | None = None,
        store: Store | None = None,
        conf: cfg.ConfigOpts | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.host = host
        self.driver = driver
        self._node = node
        self._store = store or MemoryStore()
        self._clock = clock or time.time
        self._conf = conf or _defaults()
        self._lock = FairLock()
        self._ledgers: HostLedger | None = None
        self._audited = False
        self._store.register_host(host, topic=self._conf.tracker.topic, version="library", now=self._now())

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def disabled(self) -> bool:
        """Until the first successful audit, and when the driver answers nothing: claims are not tracked then."""
        with self._lock:
            return self._ledger_locked() is None

    @property
    def compute_node(self) -> dict[str, Any] | None:
        """The node view, a copy; None while disabled."""
        with self._lock:
            ledger = self._ledger_locked()
            return None if ledger is None else views.node_view(ledger)

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims that are begun and not ended, by instance uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return {} if ledger is None else {uuid: self._claim(ledger.allocations[uuid]) for uuid in ledger.begun}

    @property
    def tracked_instances(self) -> dict[str, Instance]:
        """The instances that are charged to the node, by uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return {} if ledger is None else {uuid: held.instance for uuid, held in ledger.allocations.items()}

    @property
    def stats(self) -> Stats:
        """The node's counters, a copy."""
        with self._lock:
            counted = Stats()
            ledger = self._ledger_locked()
            for held in [] if ledger is None else ledger.allocations.values():
                counted.add(held.instance)
            return counted

    # --- claims ------------------------------------------------------------------------------------------------------

    def begin_resource_claim(
        self,
        context: Context,
        instance: MutableMapping[str, Any],
        limits: Mapping[str, float | None] | None = None,
        timeout: float | None = None,
    ) -> Claim | None:
        """Charge the instance within ``limits``, and set its host, node and launched_on. None: it does not fit, or the
        tracker is disabled (then the host is set all the same, so that a build is not blocked).

        Raises InvalidInput, ClaimConflict, StoreUnavailable; nothing has changed then.
        """
        claim, _ = self._begin(context, instance, limits, timeout)
        return claim

    def _begin(
        self,
        context: Context,
        instance: MutableMapping[str, Any],
        limits: Mapping[str, float | None] | None,
        timeout: float | None = None,
    ) -> tuple[Claim | None, ComputeResourcesUnavailable | None]:
        policy = self._policy()
        wanted = read_instance(instance)
        wanted = wanted.changed(owner_of(wanted.project_id, wanted.user_id, _facts(context)))
        within = read_limits(limits)
        lasting = read_timeout("timeout", timeout) or policy.claim_timeout
        if instance.get("host"):
            LOG.warning("instance %s already has the host %s", wanted.uuid, instance["host"])
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is None:
                self._place(instance, self._node)
                return None, None
            command = commands.BeginClaim(
                instance=wanted,
                limits=within,
                timeout=lasting,
                node=ledger.name,
                capacity_limits=policy.capacity_limits,
            )
            decision = self._decide_locked(command)
            if isinstance(decision.error, ComputeResourcesUnavailable):
                LOG.info("claim of %s refused on %s: %s", wanted.uuid, ledger.name, decision.error)
                return None, decision.error
            if decision.error is not None:
                raise decision.error
            ledger = self._ledger_locked()
            assert ledger is not None
            self._place(instance, ledger.name)
            return self._claim(ledger.allocations[wanted.uuid]), None

    def _place(self, instance: MutableMapping[str, Any], node: str | None) -> None:
        instance["host"] = instance["launched_on"] = self.host
        instance["node"] = node

    def finish_resource_claim(self, claim: Claim | str | None) -> None:
        """The build is done: the claim ends, the usage stays. One that is unknown is left alone."""
        self._end(claim, commands.FinishClaim)

    def abort_resource_claim(
        self, context: Context, claim: Claim | str | None, instance: MutableMapping[str, Any] | None = None
    ) -> None:
        """The build failed: release what was charged, and clear the instance's host, node and launched_on where it is given,
        so that no later audit charges it again. One that is unknown is left alone."""
        ended = self._end(claim, commands.AbortClaim)
        if ended and instance is not None:
            instance["host"] = instance["launched_on"] = instance["node"] = None

    def _end(self, claim: Claim | str | None, command: type[commands.FinishClaim] | type[commands.AbortClaim]) -> bool:
        claim_id = claim.claim_id if isinstance(claim, Claim) else claim
        with self._lock:
            if claim_id is None or self._ledger_locked() is None:
                return False
            ended = self._decide_locked(command(claim_id=claim_id)).reply is not None
        if not ended:
            LOG.info("claim %s is unknown: finished, aborted or expired", claim_id)
        return ended

    def resource_claim(
        self,
        context: Context,
        instance: MutableMapping[str, Any] | None = None,
        limits: Mapping[str, float | None] | None = None,
        *,
        memory_mb: int = 0,
        disk_gb: int = 0,
        vcpus: int = 0,
    ) -> ResourceClaim:
        """A claim as a context manager, begun now; without an instance it is one of these sizes under a generated id."""
        if instance is None:
            sizes = {"memory_mb": memory_mb, "root_gb": disk_gb, "vcpus": vcpus}
            for name, value in (("memory_mb", memory_mb), ("disk_gb", disk_gb), ("vcpus", vcpus)):
                read_amount(name, value)
            instance = {"uuid": str(uuid4()), "ephemeral_gb": 0, **sizes}
        claim, refusal = self._begin(context, instance, limits)
        return ResourceClaim(self, context, instance, claim, refusal)

    # --- usage -------------------------------------------------------------------------------------------------------

    def update_usage(self, context: Context, instance: Mapping[str, Any]) -> None:
        """New states, sizes and facts of an instance; ``deleted`` releases it. Ignored for one that is not tracked."""
        changes = read_changes(instance)
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is not None:
                self._decide_locked(commands.UpdateUsage(uuid=changes["uuid"], changes=changes, node=ledger.name))

    def update_available_resource(self, context: Context) -> None:
        """The audit: ask the driver, end overdue claims, and take usage from the instances that are charged.

        Raises what the driver raises, and InvalidInput naming every key that it left out; what was there before stays.
        """
        node = self._node or self._only_node()
        inventory = read_inventory(self.driver.get_available_resource(node), self._policy().reserved)
        release = self._policy().release_expired
        with self._lock:
            host = self._load_locked()
            if host is None:
                LOG.warning("host %s has no service record: its tracker stays disabled", self.host)
                return
            if node not in host.nodes and inventory is None:
                return
            if node not in host.nodes:
                self._store.create_node(host.id, node)
                self._ledgers = None
            self._node = node
            self._audited = True
            self._decide_locked(
                commands.ExpireClaims(node=node, release=release),
                commands.ReportInventory(node=node, inventory=inventory),
            )

    def _only_node(self) -> str:
        nodes = list(self.driver.get_available_nodes())
        if len(nodes) != 1:
            raise NodeNotFound(f"the driver has {len(nodes)} nodes: name one", host=self.host, node=None)
        return nodes[0]

    # --- the ledger --------------------------------------------------------------------------------------------------

    def _ledger_locked(self) -> NodeLedger | None:
        """The node's ledger; None while disabled."""
        if not self._audited or self._node is None:
            return None
        host = self._load_locked()
        ledger = None if host is None else host.nodes.get(self._node)
        return None if ledger is None or ledger.disabled else ledger

    def _load_locked(self) -> HostLedger | None:
        if self._ledgers is None:
            self._ledgers = self._store.load_host(self.host)
        return self._ledgers

    def _decide_locked(self, *decided: commands.Command) -> Decision:
        """Decide and commit as one step; on a conflict with another writer, again. Returns the last decision."""
        for _ in range(_RETRIES):
            try:
                with self._forgetting():
                    return self._attempt_locked(decided)
            except Conflict as conflict:
                LOG.info("another writer was first (%s); deciding again", conflict)
                last = conflict
        raise last

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """A ledger that could not be committed is read again."""
        try:
            yield
        except BaseException:
            self._ledgers = None
            raise

    def _attempt_locked(self, decided: tuple[commands.Command, ...]) -> Decision:
        host = self._load_locked()
        assert host is not None
        decision = Decision()
        notifications = []
        changed: dict[int, NodeLedger] = {}
        for command in decided:
            decision = decide(host, command, self._now())
            for event in decision.events:
                assert decision.node is not None
                decision.node.apply(event)
                changed[decision.node.id] = decision.node
                notifications.append(render(event, decision.node))
        if not changed:
            self._check_locked(host)
        else:
            self._store.commit(Commit(ledgers=list(changed.values()), notifications=notifications))
            for ledger in changed.values():
                ledger.committed()
        return decision

    def _check_locked(self, host: HostLedger) -> None:
        """That nothing came of it must not have been decided on an old view. Raises Conflict."""
        stored = self._store.generations([host.id])
        if any(stored.get(ledger.id) != ledger.stored_generation for ledger in host):
            raise Conflict("the ledger in memory is old")

    def _claim(self, held: Allocation) -> Claim:
        sizes = held.resources.to_dict()
        return Claim(
            held.uuid, sizes["MEMORY_MB"], sizes["DISK_GB"], sizes["VCPU"], held.expires_at / SECOND, self._clock
        )

    def _now(self) -> int:
        return round(self._clock() * SECOND)

    def _policy(self) -> Policy:
        return read_policy(self._conf)


class ResourceClaim:
    """A claim that has been begun: finished when the block is left, aborted when an exception leaves it.

    Entering gives the Claim (None where the tracker was disabled), and raises ComputeResourcesUnavailable, with every
    shortfall, if the claim was refused when it was begun.
    """

    def __init__(
        self,
        tracker: ResourceTracker,
        context: Context,
        instance: MutableMapping[str, Any],
        claim: Claim | None,
        refusal: ComputeResourcesUnavailable | None,
    ) -> None:
        self._tracker = tracker
        self._context = context
        self._instance = instance
        self._refusal = refusal
        self.claim = claim

    def __enter__(self) -> Claim | None:
        if self._refusal is not None:
            raise self._refusal
        return self.claim

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if kind is None:
            self._tracker.finish_resource_claim(self.claim)
        else:
            self._tracker.abort_resource_claim(self._context, self.claim, self._instance)
        return False


def _defaults() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[], default_config_dirs=[])
    return conf


def _facts(context: Context) -> Mapping[str, Any]:
    if context is None:
        return {}
    if isinstance(context, Mapping):
        return context
    facts: Mapping[str, Any] = context.to_dict()
    return facts
