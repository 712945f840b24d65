# SPDX-License-Identifier: Apache-2.0
"""The resource tracker as a library: in one process, without a bus, on the same ledgers and stores as the worker.

The names and the behaviour are those of the compute resource tracker of 2012, whose manager held one tracker per node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.conf.policy import read_policy, register_policy_opts
from tracker_worker.domain import commands, views
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import Instance, owner_of, read_changes, read_instance
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.stats import Stats
from tracker_worker.domain.values import SECOND, read_amount, read_timeout
from tracker_worker.errors import ComputeResourcesUnavailable, InvalidInput, NodeNotFound
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.library.claim import Claim, ResourceClaim, copied
from tracker_worker.library.decisions import Decisions
from tracker_worker.library.fairlock import FairLock
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.text import printable

LOG = logging.getLogger(__name__)

Context = Any
"""A request context: a mapping with project_id and user_id, an object with ``to_dict()``, or None."""


class ResourceTracker:
    """Keeps the ledger of one node.

    Any thread may call any method. Operations on the node exclude each other and are served in order of arrival; the driver is
    asked outside of this order.

    :param host: the compute host.
    :param driver: the inventory driver, which reports what the node has.
    :param node: the node of that host; None: the driver's only node.
    :param store: the store that keeps the ledger; it must be started, and the host gets its service record there. None: the
        ledger is kept in memory, and notifications, which nobody could read there, are not kept.
    :param conf: the ConfigOpts with the options of ``[tracker]`` and ``[bus] max_field_bytes``, which are registered on it;
        None: the defaults.
    :param clock: gives seconds since the epoch.
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
        self._clock = clock or threads.wall_clock
        self._conf = _defaults() if conf is None else conf
        register_policy_opts(self._conf)
        self._lock = FairLock()
        # The driver is asked under this lock alone: never twice at a time, and an older answer never replaces a newer one.
        self._auditing = FairLock()
        self._audited = False
        self._ignored_updates = 0
        kept = MemoryStore() if store is None else store
        kept.register_host(host, topic=self._conf.tracker.topic, version="library", now=self._now())
        self._decisions = Decisions(kept, host, now=self._now, notify=store is not None)

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def disabled(self) -> bool:
        """Whether claims are not tracked: until the first successful audit, and after an audit whose driver reports nothing."""
        with self._lock:
            return self._ledger_locked() is None

    @property
    def compute_node(self) -> dict[str, Any] | None:
        """A copy of the node view; None while the tracker is disabled."""
        with self._lock:
            ledger = self._ledger_locked()
            return None if ledger is None else views.node_view(ledger)

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims that are begun and not ended, by instance uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return (
                {}
                if ledger is None
                else {uuid: Claim.of(ledger.allocations[uuid], self._clock) for uuid in ledger.begun}
            )

    @property
    def tracked_instances(self) -> dict[str, Instance]:
        """Copies of the instances that are charged to the node, by uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            return {} if ledger is None else {uuid: copied(held.instance) for uuid, held in ledger.allocations.items()}

    @property
    def stats(self) -> Stats:
        """A copy of the node's counters."""
        with self._lock:
            counted = Stats()
            ledger = self._ledger_locked()
            for held in [] if ledger is None else ledger.allocations.values():
                counted.add(held.instance)
            return counted

    @property
    def ignored_updates(self) -> int:
        """The number of updates for instances that are not tracked."""
        with self._lock:
            return self._ignored_updates

    # --- claims ------------------------------------------------------------------------------------------------------

    def begin_resource_claim(
        self,
        context: Context,
        instance: MutableMapping[str, Any],
        limits: Mapping[str, float | None] | None = None,
        timeout: float | None = None,
    ) -> Claim | None:
        """Charge the instance within ``limits`` (ceilings on total usage), and set its host, node and launched_on. The claim
        expires after ``timeout`` seconds; None: as ``[tracker] claim_timeout_seconds`` says.

        Returns None when the instance does not fit, and when the tracker is disabled; in the second case the host is set
        all the same, so that a build is not blocked. (The clients' method of this name raises ComputeResourcesUnavailable
        for an instance that does not fit; so does ``resource_claim`` here, on entry.)

        Raises InvalidInput, ClaimConflict, StoreUnavailable; nothing has changed then.
        """
        claim, _ = self._begin(context, instance, limits, timeout)
        return claim

    def _begin(
        self,
        context: Context,
        instance: Any,
        limits: Mapping[str, float | None] | None,
        timeout: float | None = None,
    ) -> tuple[Claim | None, ComputeResourcesUnavailable | None]:
        policy = self._policy()
        wanted = read_instance(instance, policy.max_field_bytes)
        if not isinstance(instance, MutableMapping):
            raise InvalidInput(field="instance", reason="must be an object whose host can be set")
        wanted = wanted.changed(owner_of(wanted.project_id, wanted.user_id, _facts(context)))
        within = read_limits(limits)
        lasting = read_timeout("timeout", timeout) or policy.claim_timeout
        if instance.get("host"):
            LOG.warning("instance %s already has the host %s", printable(wanted.uuid), printable(str(instance["host"])))
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is not None:
                command = commands.BeginClaim(
                    instance=wanted,
                    limits=within,
                    timeout=lasting,
                    node=ledger.name,
                    capacity_limits=policy.capacity_limits,
                )
                [decision] = self._decisions.commit(command)
                if isinstance(decision.error, ComputeResourcesUnavailable):
                    LOG.info("claim of %s refused on %s: %s", printable(wanted.uuid), ledger.name, decision.error)
                    return None, decision.error
                if decision.error is not None:
                    raise decision.error
                # There is no reply when another writer has disabled the node in the meantime.
                if decision.reply is not None:
                    assert decision.node is not None
                    self._place(instance)
                    return Claim.of(decision.node.allocations[wanted.uuid], self._clock), None
            self._place(instance)
            return None, None

    def _place(self, instance: MutableMapping[str, Any]) -> None:
        instance["host"] = instance["launched_on"] = self.host
        if self._node is not None:
            instance["node"] = self._node

    def finish_resource_claim(self, claim: Claim | str | None) -> None:
        """The build succeeded: the claim ends, the instance stays charged. An unknown claim changes nothing."""
        self._end(claim, commands.FinishClaim)

    def abort_resource_claim(
        self, context: Context, claim: Claim | str | None, instance: MutableMapping[str, Any] | None = None
    ) -> None:
        """The build failed: release what the claim was charged, and clear host, node and launched_on of ``instance``, if it is
        given, so that no later audit charges it again. An unknown claim changes nothing."""
        ended = self._end(claim, commands.AbortClaim)
        if ended and instance is not None:
            instance["host"] = instance["launched_on"] = instance["node"] = None

    def _end(self, claim: Claim | str | None, command: type[commands.FinishClaim] | type[commands.AbortClaim]) -> bool:
        claim_id = claim.claim_id if isinstance(claim, Claim) else claim
        with self._lock:
            ledger = self._ledger_locked()
            if claim_id is None or ledger is None:
                return False
            # A claim of another node of the host is unknown here: it belongs to that node's tracker.
            ended = claim_id in ledger.begun and self._decisions.commit(command(claim_id=claim_id))[0].reply is not None
        if not ended:
            LOG.info("claim %s is unknown: finished, aborted or expired", printable(claim_id))
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
        """A claim as a context manager. The claim is begun by this call, not on entry. Without an instance it is a claim of
        these sizes under a generated id."""
        if instance is None:
            sizes = {"memory_mb": memory_mb, "root_gb": disk_gb, "vcpus": vcpus}
            for name, value in (("memory_mb", memory_mb), ("disk_gb", disk_gb), ("vcpus", vcpus)):
                read_amount(name, value)
            instance = {"uuid": str(threads.new_uuid()), "ephemeral_gb": 0, **sizes}
        claim, refusal = self._begin(context, instance, limits)
        return ResourceClaim(self, context, instance, claim, refusal)

    # --- usage -------------------------------------------------------------------------------------------------------

    def update_usage(self, context: Context, instance: Mapping[str, Any]) -> None:
        """Report new states, sizes and facts of an instance; the vm state ``deleted`` releases it. An update of an instance
        that is not tracked is counted and otherwise ignored."""
        changes = read_changes(instance, self._policy().max_field_bytes)
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is not None:
                command = commands.UpdateUsage(uuid=changes["uuid"], changes=changes, node=ledger.name)
                [decision] = self._decisions.commit(command)
                if decision.error is not None:
                    raise decision.error
                self._ignored_updates += not decision.reply["tracked"]

    def update_available_resource(self, context: Context) -> None:
        """The audit: ask the driver, expire overdue claims, and take usage from the instances that are charged.

        Raises any exception of the driver; InvalidInput: the driver left out keys, all of which are named, or the node has
        to be named; NodeNotFound: the driver does not have the node; StoreUnavailable. Nothing has changed then."""
        with self._auditing:
            policy = self._policy()
            node = self._listed_node()
            inventory = read_inventory(self.driver.get_available_resource(node), policy.reserved)
            with self._lock:
                if self._decisions.host() is None:
                    LOG.warning("host %s has no service record: its tracker stays disabled", self.host)
                    return
                if self._decisions.ledger(node) is None:
                    if inventory is None:
                        return
                    self._decisions.create_node(node)
                for decision in self._decisions.commit(
                    commands.ExpireClaims(node=node, release=policy.release_expired),
                    commands.ReportNode(node=node, inventory=inventory, keeps_inventory=False),
                ):
                    if decision.error is not None:
                        raise decision.error
                self._node = node
                self._audited = True

    def _listed_node(self) -> str:
        nodes = list(self.driver.get_available_nodes())
        if self._node is None and len(nodes) > 1:
            raise InvalidInput(
                field="node", reason=f"must name a node: the driver of host {self.host} has {len(nodes)}"
            )
        if not nodes or self._node not in (None, *nodes):
            raise NodeNotFound(host=self.host, node=self._node)
        return self._node or nodes[0]

    # --- the ledger --------------------------------------------------------------------------------------------------

    def _ledger_locked(self) -> NodeLedger | None:
        """The node's ledger; None while the tracker is disabled."""
        if not self._audited or self._node is None:
            return None
        ledger = self._decisions.ledger(self._node)
        return None if ledger is None or ledger.disabled else ledger

    def _now(self) -> int:
        return round(self._clock() * SECOND)

    def _policy(self) -> Policy:
        return read_policy(self._conf)


def _defaults() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="tracker-worker", default_config_files=[], default_config_dirs=[], use_env=False)
    return conf


def _facts(context: Context) -> Mapping[str, Any]:
    if context is None:
        return {}
    if isinstance(context, Mapping):
        return context
    facts: Mapping[str, Any] = context.to_dict()
    return facts
