# SPDX-License-Identifier: Apache-2.0
"""The library under its public name: see ``tracker_worker.library``."""

from tracker_worker.library.claim import Claim, ResourceClaim
from tracker_worker.library.moves import MoveClaim
from tracker_worker.library.tracker import ResourceTracker

__all__ = ["Claim", "MoveClaim", "ResourceClaim", "ResourceTracker"]
