# SPDX-License-Identifier: Apache-2.0
"""The client for schedulers under its public name: see ``tracker_worker.client``."""

from tracker_worker.client.api import ALLOWED_REMOTE_EXMODS, VERSION, TrackerAPI

__all__ = ["ALLOWED_REMOTE_EXMODS", "VERSION", "TrackerAPI"]
