# SPDX-License-Identifier: Apache-2.0
"""Histories that the worker's own domain makes, with what they mean to billing: for tests of consumers' books."""
