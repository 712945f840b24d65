# SPDX-License-Identifier: Apache-2.0
"""The formats in which notifications are published. Each message is made of a row of the outbox when it is sent."""
