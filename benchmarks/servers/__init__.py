# SPDX-License-Identifier: Apache-2.0
"""What the worker is compared with. Each is a program: ``python -m benchmarks.servers.<name> FILE``, where FILE is the
worker's own configuration; it writes ``ready`` to stdout once it consumes, and ends with TERM."""
