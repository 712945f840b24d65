# SPDX-License-Identifier: Apache-2.0
"""The serial loop that decides and commits."""
