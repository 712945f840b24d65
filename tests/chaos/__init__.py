# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.chaos``: random faults under load for minutes, and then the proof that the books balance."""
