# SPDX-License-Identifier: Apache-2.0
"""``tox -e billing``: real consumers of notifications receive every event type from a real worker.

Not part of the other runs, because it takes minutes and installs the consumers: Ceilometer in an environment of its own, as a
cloud would, and OpenMeter's client beside the tests.
"""
