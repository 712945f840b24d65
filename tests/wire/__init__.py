# SPDX-License-Identifier: Apache-2.0
"""Golden bytes of stock oslo.messaging programs, and what records them again (README.md)."""
