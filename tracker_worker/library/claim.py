# SPDX-License-Identifier: Apache-2.0
"""What the library hands out for a claim."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

from msgspec.structs import replace

from tracker_worker import threads
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ComputeResourcesUnavailable, TrackerError
from tracker_worker.text import printable

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A snapshot of an instance and of what it was charged. ``claim_id`` is new with each claim, unless the caller chose it.
    Memory in MB, disk in GB; ``resources`` are the custom classes by name; ``expire_ts`` in seconds since the epoch."""

    claim_id: str
    memory_mb: int
    disk_gb: int
    vcpus: int
    expire_ts: float
    instance: Instance = field(repr=False, compare=False)
    clock: Callable[[], float] = field(default=threads.wall_clock, repr=False, compare=False)
    resources: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, held: Allocation, clock: Callable[[], float]) -> Claim:
        """The claim by which ``held`` was charged. ``clock`` gives seconds since the epoch."""
        sizes = held.resources.to_dict()
        return cls(
            claim_id=held.claim_id,
            memory_mb=sizes["MEMORY_MB"],
            disk_gb=sizes["DISK_GB"],
            vcpus=sizes["VCPU"],
            expire_ts=held.expires_at / SECOND,
            instance=copied(held.instance),
            clock=clock,
            resources=dict(held.resources.custom),
        )

    def is_expired(self) -> bool:
        """Whether it is strictly later than the claim's time."""
        return self.clock() > self.expire_ts

    def __str__(self) -> str:
        sizes = f"{self.memory_mb} MB memory, {self.disk_gb} GB disk, {self.vcpus} VCPUs"
        custom = "".join(f", {amount} {name}" for name, amount in self.resources.items())
        return f"[Claim {self.claim_id}: {sizes}{custom}]"


class _Ends(Protocol):
    """The tracker that began the claim."""

    def finish_resource_claim(self, claim: Claim | str | None) -> None: ...

    def abort_resource_claim(
        self, context: Any, claim: Claim | str | None, instance: MutableMapping[str, Any] | None = None
    ) -> None: ...


class ResourceClaim:
    """A claim that was begun, as a context manager: finished when the block is left, aborted when an exception leaves it.

    Entering gives the Claim (None where the tracker was disabled), and raises ComputeResourcesUnavailable, with every
    shortfall, if the claim was refused when it was begun.
    """

    def __init__(
        self,
        tracker: _Ends,
        context: Any,
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
            return False
        try:
            self._tracker.abort_resource_claim(self._context, self.claim, self._instance)
        except TrackerError as failure:
            # Best effort: the exception that leaves the block must not be hidden.
            uuid = None if self.claim is None else printable(self.claim.instance.uuid)
            LOG.warning("%s of instance %s is not aborted, it will expire: %s", self.claim, uuid, failure)
        return False


def copied(instance: Instance) -> Instance:
    """The same instance, sharing nothing with ``instance`` that could be changed."""
    return replace(instance, image_meta=copy.deepcopy(instance.image_meta), metadata=copy.deepcopy(instance.metadata))
