# SPDX-License-Identifier: Apache-2.0
"""Publishes the report as artifacts on a Prefect server, to be seen in Prefect's own UI."""

from __future__ import annotations

import json
from typing import Any

from flowgauge.compat.server_in_use import server_in_use
from flowgauge.report.model.report import Section, report_on
from flowgauge.report.model.tables import COLUMNS
from flowgauge.report.render.markdown import markdown
from flowgauge.results.rows import Results

KEY = "flowgauge-report"


def publish(results: Results) -> tuple[str, ...]:
    """Create artifacts on the Prefect server that the current settings name.

    Args:
        results: The figures.

    Returns:
        The keys of the artifacts: of the report, then of a table for each group of rows. Each
        becomes the newest version of the artifact with its key.

    Raises:
        Mistake: If no server is set, or it can't be reached or answers with an error; one line.
    """
    from prefect.client.schemas.actions import ArtifactCreate

    with server_in_use("to publish to") as client:
        report = report_on(results)
        artifacts = [ArtifactCreate(key=KEY, type="markdown", data=markdown(report))]
        artifacts += [_table(section) for section in report.sections]
        return tuple(str(client.create_artifact(artifact).key) for artifact in artifacts)


def _table(section: Section) -> Any:
    """Return a table of all rows of a group as an artifact."""
    from prefect.client.schemas.actions import ArtifactCreate

    table = [
        {column: cell.text for column, cell in zip(COLUMNS, line.cells, strict=True)}
        for line in section.lines
    ]
    return ArtifactCreate(
        key=f"flowgauge-{section.name}",
        type="table",
        description=section.title,
        data=json.dumps(table, ensure_ascii=False),
    )
