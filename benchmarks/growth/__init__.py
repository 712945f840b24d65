# SPDX-License-Identifier: Apache-2.0
"""What becomes of cost and latency as the ledger, the hosts and the outbox grow."""
