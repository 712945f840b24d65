# SPDX-License-Identifier: Apache-2.0
"""The inventories of nodes: the interface of inventory drivers, and the drivers that come with the worker."""
