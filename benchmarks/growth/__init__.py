# SPDX-License-Identifier: Apache-2.0
"""Cost and latency as the ledger, the number of hosts and the outbox grow."""
