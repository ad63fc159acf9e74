# SPDX-License-Identifier: Apache-2.0
"""The table of task runners, and the worker processes that they start."""
