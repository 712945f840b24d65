# SPDX-License-Identifier: Apache-2.0
"""The library under its public name: see ``tracker_worker.library``."""

from tracker_worker.library.tracker import Claim, ResourceClaim, ResourceTracker

__all__ = ["Claim", "ResourceClaim", "ResourceTracker"]
