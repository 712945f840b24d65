# SPDX-License-Identifier: Apache-2.0
"""The servers that the worker is compared with.

Each is a program, ``python -m benchmarks.servers.<name> FILE``, where FILE is the worker's own configuration. It writes
``ready`` to stdout once it consumes, and ends on SIGTERM.
"""
