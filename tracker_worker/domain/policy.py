# SPDX-License-Identifier: Apache-2.0
"""The options that decisions depend on, as the domain wants them."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from tracker_worker.domain.inventory import reserve
from tracker_worker.domain.resources import Resources
from tracker_worker.domain.times import SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``claim_timeout`` in microseconds."""

    claim_timeout: int
    capacity_limits: bool
    release_expired: bool
    reserved: Resources


def read_policy(conf: cfg.ConfigOpts) -> Policy:
    return Policy(
        claim_timeout=conf.tracker.claim_timeout_seconds * SECOND,
        capacity_limits=conf.tracker.missing_limit == "capacity",
        release_expired=conf.tracker.expired_claims == "release",
        reserved=reserve(memory_mb=conf.tracker.reserved_host_memory_mb, disk_mb=conf.tracker.reserved_host_disk_mb),
    )
