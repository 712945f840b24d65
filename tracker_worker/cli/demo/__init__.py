# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker demo``."""
