# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker check``: what is wrong with an installation, and what cures it. One module for each family of checks."""
