# SPDX-License-Identifier: Apache-2.0
"""The resource-claim ledger of compute hosts, served over RabbitMQ."""
