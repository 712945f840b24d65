# SPDX-License-Identifier: Apache-2.0
"""What billing hears: an event type, a payload and its published schema for every event of the ledger."""
