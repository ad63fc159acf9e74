# SPDX-License-Identifier: Apache-2.0
"""Writes the report on a benchmark run: an HTML page, Markdown and charts."""

from __future__ import annotations

from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.report.model.report import Report, report_on

__all__ = ["Report", "report_on", "write_report"]


def write_report(report: Report, directory: Path, source: Path | None = None) -> Path:
    """Write a report, replacing an earlier one in the same folder.

    Args:
        report: The report, from `report_on`.
        directory: Where `index.html`, `report.md`, `charts/*.svg` and `results.json` go; created
            if it is missing. Other files in it are left alone.
        source: The file that the figures were read from, which is not overwritten.

    Returns:
        The path of `index.html`.

    Raises:
        ModuleNotFoundError: If the packages that draw are not installed.
        OSError: If the folder cannot be written to.
    """
    try:
        # Imported here: altair takes seconds to import, and the terminal summary does not need it.
        from flowgauge.report.charts.charts import svg
        from flowgauge.report.charts.drawings import draw
        from flowgauge.report.render.html import page
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"no report written: {error.name} is missing: pip install 'flowgauge[report]'",
            name=error.name,
        ) from None
    from flowgauge.report.render.markdown import markdown

    drawings = draw(report.questions, report.results.timelines)
    # Everything is rendered before the first file is touched; files with links are written last.
    documents = {"report.md": markdown(report, drawings), "index.html": page(report, drawings)}
    charts = {key: svg(drawing.chart) for key, drawing in drawings.items()}
    for drawing in drawings.values():
        charts |= drawing.pictures

    folder = directory / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("gantt-*.svg"), *(folder / f"{q.key}.svg" for q in report.questions)):
        if old.stem not in charts:
            old.unlink(missing_ok=True)
    for name, chart in charts.items():
        write_whole(folder / f"{name}.svg", chart)
    copy = directory / "results.json"
    if source is None or source.resolve() != copy.resolve():
        report.results.save(copy)
    for name, content in documents.items():
        write_whole(directory / name, content)
    return directory / "index.html"
