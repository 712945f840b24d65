# SPDX-License-Identifier: Apache-2.0
"""Options -> the domain's policy."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.conf import bus, inventory, tracker
from tracker_worker.domain.inventory import reserve
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND


def register_policy_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options that ``read_policy`` reads, for a program that needs no other ones."""
    conf.register_opts(tracker.OPTIONS, group=tracker.GROUP)
    conf.register_opts(
        [option for option in inventory.OPTIONS if option.name == "stale_after_seconds"], group=inventory.GROUP
    )
    conf.register_opts([option for option in bus.OPTIONS if option.name == "max_field_bytes"], group=bus.GROUP)


def read_policy(conf: cfg.ConfigOpts) -> Policy:
    """The policy that the options say now. Raises cfg.Error, ValueError: an option has a bad value."""
    return Policy(
        claim_timeout=conf.tracker.claim_timeout_seconds * SECOND,
        capacity_limits=conf.tracker.missing_limit == "capacity",
        release_expired=conf.tracker.expired_claims == "release",
        reserved=reserve(
            vcpus=conf.tracker.reserved_host_vcpus,
            memory_mb=conf.tracker.reserved_host_memory_mb,
            disk_mb=conf.tracker.reserved_host_disk_mb,
        ),
        stale_after=conf.inventory.stale_after_seconds * SECOND,
        deletion_memory=conf.tracker.deletion_memory_seconds * SECOND,
        owner_required=conf.tracker.missing_owner == "refuse",
        max_field_bytes=conf.bus.max_field_bytes,
        move_memory=conf.tracker.move_memory_hours * 3600 * SECOND,
        move_confirm=conf.tracker.move_confirm_seconds * SECOND,
    )
