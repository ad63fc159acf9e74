# SPDX-License-Identifier: Apache-2.0
"""Writes the trend of rows over versions of Prefect, as a page and charts."""

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
        versions: The versions of Prefect, one for each point of a line.
        notes: What else a reader must know, a sentence each.
        folder: Where `index.html` and `charts/*.svg` go; created if it is missing.

    Returns:
        The path of the page.

    Raises:
        OSError: If the folder cannot be written to.
    """
    groups: dict[str, list[TrendLine]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    charts = {
        group: chart
        for group, group_lines in groups.items()
        if (chart := trend_chart(group_lines, versions))
    }
    page = fill_in(
        "trend.html.j2", groups=groups, charts=charts, versions=versions, notes=tuple(notes)
    )
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    for old in (folder / "charts").glob("*.svg"):
        old.unlink()
    for group, chart in charts.items():
        write_whole(folder / "charts" / f"{group}.svg", chart)
    write_whole(folder / "index.html", page)
    return folder / "index.html"
