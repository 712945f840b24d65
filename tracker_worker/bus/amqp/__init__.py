# SPDX-License-Identifier: Apache-2.0
"""The bus on RabbitMQ."""
