# SPDX-License-Identifier: Apache-2.0
"""The real servers that tests run against: private, on free local ports, in a temporary directory, removed afterwards."""

from .binaries import ensure_binaries
from .guard import Guard
from .postgresql import PostgreSQLServer
from .rabbitmq import RabbitMQServer

__all__ = ["Guard", "PostgreSQLServer", "RabbitMQServer", "ensure_binaries"]
