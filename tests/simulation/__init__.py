# SPDX-License-Identifier: Apache-2.0
"""The worker's real code on several machines, in one thread and virtual time, with faults that a seed draws."""

import tests.support.messaging  # noqa: F401 before oslo.messaging
