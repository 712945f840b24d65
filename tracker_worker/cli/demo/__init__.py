# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker demo``: workers, a scheduler and a billing consumer in one process."""
