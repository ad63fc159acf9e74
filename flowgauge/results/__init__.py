# SPDX-License-Identifier: Apache-2.0
"""The results of a run: rows, timelines, the fingerprint of the machine, and their files."""
