# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker dead-letter``: list, show, replay and purge the messages in the dead-letter queue."""
