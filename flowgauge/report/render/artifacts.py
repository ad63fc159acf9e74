# SPDX-License-Identifier: Apache-2.0
"""The report as artifacts of a Prefect server, for a team to see in Prefect's own pages."""

from __future__ import annotations

import json
from typing import Any

from flowgauge.mistake import Mistake
from flowgauge.report.model.labels import Group, groups
from flowgauge.report.model.tables import COLUMNS, lines
from flowgauge.report.model.verdicts import Bands, noise_bands
from flowgauge.report.render.markdown import text
from flowgauge.results.rows import Results

KEY = "flowgauge-report"


class PublishError(Mistake):
    """Why nothing was published; the message is one line."""


def publish(results: Results) -> tuple[str, ...]:
    """Create artifacts on the Prefect server that the current settings name.

    Args:
        results: The figures.

    Returns:
        The keys of the artifacts: of the report, then of a table for each group of rows. An
        artifact whose key was there is its newest version then.

    Raises:
        PublishError: If no server is named, or it can't be reached or refuses.
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
    bands = noise_bands(results.rows)
    made = [ArtifactCreate(key=KEY, type="markdown", data=text(results))]
    made += [_table(group, bands) for group in groups(results.rows)]
    try:
        with get_client(sync_client=True) as client:
            return tuple(str(client.create_artifact(artifact).key) for artifact in made)
    except PrefectHTTPStatusError as error:
        raise PublishError(f"{api} refuses: {str(error).splitlines()[0]}") from None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise PublishError(f"{api} cannot be reached: {why or type(error).__name__}") from None


def _table(group: Group, bands: Bands) -> Any:
    """Describe a table of all rows of a group."""
    from prefect.client.schemas.actions import ArtifactCreate

    shown = [
        {column: cell.text for column, cell in zip(COLUMNS, line.cells, strict=True)}
        for line in lines(group.rows, bands)
    ]
    return ArtifactCreate(
        key=f"flowgauge-{group.name}",
        type="table",
        description=group.title,
        data=json.dumps(shown, ensure_ascii=False),
    )
