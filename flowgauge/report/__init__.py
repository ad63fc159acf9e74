# SPDX-License-Identifier: Apache-2.0
"""Turns the figures of a run into a page, Markdown and charts."""

from __future__ import annotations

from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.report.model.report import Report, report_on

__all__ = ["Report", "report_on", "write_report"]


def write_report(report: Report, directory: Path, source: Path | None = None) -> Path:
    """Write a report, in place of one that may be there.

    Args:
        report: What it says, from `report_on`.
        directory: Where `index.html`, `report.md`, `charts/*.svg` and `results.json` go; made
            if need be. Other files in it are left alone.
        source: The file that the figures were read from, which is not written over.

    Returns:
        The path of `index.html`.

    Raises:
        ModuleNotFoundError: If the packages that draw are not installed.
        OSError: If the folder cannot be written to.
    """
    try:
        # Here and not above: drawing takes seconds to import, and a terminal summary needs none.
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
    # All of it is made before the first file is touched, and what links to the rest comes last.
    made = {"report.md": markdown(report, drawings), "index.html": page(report, drawings)}
    charts = {key: svg(drawing.chart) for key, drawing in drawings.items()}
    for drawing in drawings.values():
        charts |= drawing.pictures

    folder = directory / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("gantt-*.svg"), *(folder / f"{q.key}.svg" for q in report.questions)):
        if old.stem not in charts:
            old.unlink(missing_ok=True)
    for name, drawn in charts.items():
        write_whole(folder / f"{name}.svg", drawn)
    copy = directory / "results.json"
    if source is None or source.resolve() != copy.resolve():
        report.results.save(copy)
    for name, content in made.items():
        write_whole(directory / name, content)
    return directory / "index.html"
