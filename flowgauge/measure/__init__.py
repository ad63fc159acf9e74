# SPDX-License-Identifier: Apache-2.0
"""Measurements: what the benchmarks time, and how."""
