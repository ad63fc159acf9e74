# SPDX-License-Identifier: Apache-2.0
"""Compatibility with releases of Prefect: what Flowgauge needs of them, and what it patches."""
