# SPDX-License-Identifier: Apache-2.0
"""Renderers of a report: HTML page, Markdown, terminal, artifacts on a Prefect server."""
