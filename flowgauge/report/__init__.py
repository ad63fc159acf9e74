# SPDX-License-Identifier: Apache-2.0
"""Turns the figures of a run into a page, Markdown and charts."""

from __future__ import annotations

from pathlib import Path

from flowgauge.files import write_whole
from flowgauge.results.rows import Results

__all__ = ["write_report"]


def write_report(results: Results, directory: Path, source: Path | None = None) -> Path:
    """Write a report, in place of one that may be there.

    Args:
        results: The figures.
        directory: Where `index.html`, `report.md`, `charts/*.svg` and `results.json` go; made
            if need be. Other files in it are left alone.
        source: The file that the figures were read from, which is not written over; timelines of
            workflows are looked for beside it.

    Returns:
        The path of `index.html`.

    Raises:
        ModuleNotFoundError: If the packages that draw are not installed.
        OSError: If the folder cannot be written to.
    """
    try:
        # Here and not above: drawing takes seconds to import, and a terminal summary needs none.
        from flowgauge.report.charts.charts import spec, svg
        from flowgauge.report.charts.gantt import gantt_charts
        from flowgauge.report.render.html import page
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"no report written: {error.name} is missing: pip install 'flowgauge[report]'",
            name=error.name,
        ) from None
    from flowgauge.report.model.questions import questions
    from flowgauge.report.render.markdown import text
    from flowgauge.results.timelines import keep_timeline, load_timelines

    asked = questions(results.rows)
    specs = {question.key: drawn for question in asked if (drawn := spec(question))}
    charts = {key: svg(drawn) for key, drawn in specs.items()}
    timelines = load_timelines(source.parent if source else directory)
    gantts = gantt_charts(results.rows, timelines)
    # All of it is made before the first file is touched, and what links to the rest comes last.
    made = {
        "report.md": text(results, specs, gantts),
        "index.html": page(results, specs, gantts),
    }

    (directory / "charts").mkdir(parents=True, exist_ok=True)
    for timeline in timelines:
        keep_timeline(directory, timeline)
    for old in tuple((directory / "charts").glob("gantt-*.svg")):
        old.unlink()
    for name, gantt in gantts.items():
        write_whole(directory / "charts" / f"{name}.svg", gantt)
    copy = directory / "results.json"
    if source is None or source.resolve() != copy.resolve():
        results.save(copy)
    for question in asked:
        chart = directory / "charts" / f"{question.key}.svg"
        if question.key in charts:
            write_whole(chart, charts[question.key])
        else:
            chart.unlink(missing_ok=True)
    for name, content in made.items():
        write_whole(directory / name, content)
    return directory / "index.html"
