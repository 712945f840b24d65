# SPDX-License-Identifier: Apache-2.0
"""Side-by-side measurements, run by hand. They are never tests: a figure depends on the machine, a ratio depends on it less."""
