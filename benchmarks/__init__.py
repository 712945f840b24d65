# SPDX-License-Identifier: Apache-2.0
"""Side-by-side measurements, run by hand. Never a test: a figure depends on the machine, a ratio less so."""
