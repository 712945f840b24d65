# SPDX-License-Identifier: Apache-2.0
"""The worker as operators run it, on real servers. Its clients are stock programs or use raw AMQP."""
