# SPDX-License-Identifier: Apache-2.0
"""Notifications for billing: every event of the ledger has an event type, a payload and a published schema."""
