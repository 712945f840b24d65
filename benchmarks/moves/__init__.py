# SPDX-License-Identifier: Apache-2.0
"""Whole moves of instances between two hosts of one worker."""
