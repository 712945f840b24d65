# SPDX-License-Identifier: Apache-2.0
"""Bytes <-> requests, replies and notifications, as stock oslo.messaging clients send and expect them."""
