# SPDX-License-Identifier: Apache-2.0
"""What rows cost from version to version, as a page and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.report.charts.trend import trend_chart
from flowgauge.report.model.trend import TrendLine
from flowgauge.report.render.templates import fill_in


def write_trend(
    lines: Sequence[TrendLine], versions: Sequence[str], notes: Iterable[str], folder: Path
) -> Path:
    """Write a page and a chart for each group of rows.

    Args:
        lines: The rows.
        versions: Of Prefect, one for each point of a line.
        notes: What a reader must know besides, a sentence each.
        folder: Where `index.html` and `charts/*.svg` go; made if need be.

    Returns:
        The path of the page.

    Raises:
        OSError: If the folder cannot be written to.
    """
    groups: dict[str, list[TrendLine]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    charts = {
        group: drawn for group, each in groups.items() if (drawn := trend_chart(each, versions))
    }
    page = fill_in(
        "trend.html.j2", groups=groups, charts=charts, versions=versions, notes=tuple(notes)
    )
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    for old in (folder / "charts").glob("*.svg"):
        old.unlink()
    for group, drawn in charts.items():
        write_whole(folder / "charts" / f"{group}.svg", drawn)
    write_whole(folder / "index.html", page)
    return folder / "index.html"
