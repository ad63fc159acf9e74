# SPDX-License-Identifier: Apache-2.0
"""The table of task runners, and the processes that they start."""
