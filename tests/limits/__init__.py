# SPDX-License-Identifier: Apache-2.0
"""``tox -e limits``: a worker with a gigabyte of memory survives what once took more, and its other host is served throughout.

Not part of the other runs, because it takes minutes.
"""
