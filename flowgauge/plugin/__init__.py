# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: hooks, fixtures, preflight checks and the recorders of results."""
