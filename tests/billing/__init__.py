# SPDX-License-Identifier: Apache-2.0
"""``tox -e billing``: real consumers of notifications receive every event type from a real worker.

Not part of the other runs, because it takes minutes and installs the consumers, Ceilometer and OpenMeter's client, in
environments of their own, as a cloud would.
"""
