# SPDX-License-Identifier: Apache-2.0
"""Workflows as data: tasks with their inputs, shapes, work and recorded ones."""
