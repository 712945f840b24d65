# SPDX-License-Identifier: Apache-2.0
"""The clock and the threads of a real process: what decides gets these as arguments."""

from __future__ import annotations

import time

monotonic = time.monotonic  # noqa: TID251
sleep = time.sleep  # noqa: TID251
