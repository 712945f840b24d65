# SPDX-License-Identifier: Apache-2.0
"""The real servers that tests run against: private, on free local ports, in a temporary directory, gone afterwards."""

from .binaries import ensure_binaries
from .postgresql import PostgreSQLServer
from .rabbitmq import RabbitMQServer

__all__ = ["PostgreSQLServer", "RabbitMQServer", "ensure_binaries"]
