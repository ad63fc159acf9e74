# SPDX-License-Identifier: Apache-2.0
"""Proved patterns, a pytest plugin and benchmarks for Prefect 3 workflows."""
