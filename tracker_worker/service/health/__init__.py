# SPDX-License-Identifier: Apache-2.0
"""How the worker is, for whoever looks from outside."""
