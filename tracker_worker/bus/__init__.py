# SPDX-License-Identifier: Apache-2.0
"""How messages come and go."""
