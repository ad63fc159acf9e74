# SPDX-License-Identifier: Apache-2.0
"""Where a report is shown: a page, Markdown, a terminal, a Prefect server."""
