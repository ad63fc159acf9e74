# SPDX-License-Identifier: Apache-2.0
"""Publishes the report as artifacts on a Prefect server, to be seen in Prefect's own UI."""

from __future__ import annotations

import json
from typing import Any

from flowgauge.mistake import Mistake
from flowgauge.report.model.report import Section, report_on
from flowgauge.report.model.tables import COLUMNS
from flowgauge.report.render.markdown import markdown
from flowgauge.results.rows import Results

KEY = "flowgauge-report"


class PublishError(Mistake):
    """The report could not be published; the message is one line."""


def publish(results: Results) -> tuple[str, ...]:
    """Create artifacts on the Prefect server that the current settings name.

    Args:
        results: The figures.

    Returns:
        The keys of the artifacts: of the report, then of a table for each group of rows. Each
        becomes the newest version of the artifact with its key.

    Raises:
        PublishError: If no server is set, or it can't be reached or answers with an error.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    api = get_current_settings().api.url
    if not api:
        raise PublishError(
            "no Prefect server to publish to:"
            " prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    report = report_on(results)
    artifacts = [ArtifactCreate(key=KEY, type="markdown", data=markdown(report))]
    artifacts += [_table(section) for section in report.sections]
    try:
        with get_client(sync_client=True) as client:
            return tuple(str(client.create_artifact(artifact).key) for artifact in artifacts)
    except PrefectHTTPStatusError as error:
        raise PublishError(f"{api} refuses: {str(error).splitlines()[0]}") from None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise PublishError(f"{api} cannot be reached: {cause or type(error).__name__}") from None


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
