# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a host have: the driver port and the drivers that come with the worker."""
