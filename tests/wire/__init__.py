# SPDX-License-Identifier: Apache-2.0
"""Golden bytes of stock oslo.messaging programs, and the programs that record them (README.md)."""
