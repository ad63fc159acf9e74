# SPDX-License-Identifier: Apache-2.0
"""Workflows as data: tasks and their edges, the work they do, regular shapes and real traces."""
